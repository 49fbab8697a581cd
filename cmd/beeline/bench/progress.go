package bench

import (
	"fmt"
	"io"
	"time"
)

// everySecond writes a line that says how it goes, once a second, until stop is called. Without a writer it does
// nothing.
func everySecond(w io.Writer, line func(seconds int) string) (stop func()) {
	if w == nil {
		return func() {}
	}
	over, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for seconds := 1; ; seconds++ {
			select {
			case <-tick.C:
				fmt.Fprintln(w, line(seconds))
			case <-over:
				return
			}
		}
	}()
	return func() {
		close(over)
		<-ended
	}
}
