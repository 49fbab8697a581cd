package splice

// Borrow takes a pipe, as a direction does that passes bytes, until giveBack is called.
func (p *Pool) Borrow() (giveBack func(), err error) {
	lent, err := p.lend()
	return func() { p.takeBack(lent, true) }, err
}
