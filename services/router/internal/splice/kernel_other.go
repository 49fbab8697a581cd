//go:build !linux

package splice

import "errors"

func openPipe() (pipe, error) { return pipe{}, errors.ErrUnsupported }

func (pipe) close() {}

// splice copies: only Linux has splice(2).
func (d *direction) splice() (readErr, writeErr error) {
	for readErr == nil && writeErr == nil {
		readErr, writeErr = d.copyOnce()
	}
	return readErr, writeErr
}
