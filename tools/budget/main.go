// Command budget checks the sizes that CONTRIBUTING.md promises: no function above 80 lines, no file above 500,
// no interface of more than 5 methods, and at least as many lines of test as of code. Generated files do not
// count. Exceptions are named in a file, with their reason; one that is not needed any more is an error.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
)

func main() {
	exceptions := flag.String("exceptions", "", "file of exceptions")
	flag.Parse()
	if err := run(flag.Arg(0), *exceptions, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// errOver says that something is above its budget; what has been written.
var errOver = errors.New("over the budget")

func run(root, exceptionsFile string, out io.Writer) error {
	allowed, err := readExceptions(exceptionsFile)
	if err != nil {
		return err
	}
	found, err := measure(os.DirFS(root))
	if err != nil {
		return err
	}
	over := false
	for _, f := range found.findings {
		if _, ok := allowed[f.name]; ok {
			delete(allowed, f.name)
			continue
		}
		over = true
		if _, err := fmt.Fprintln(out, f); err != nil {
			return err
		}
	}
	for name := range allowed {
		over = true
		if _, err := fmt.Fprintf(out, "%s: %s needs no exception any more\n", exceptionsFile, name); err != nil {
			return err
		}
	}
	if found.test < found.code {
		over = true
	}
	if _, err := fmt.Fprintf(out, "%d lines of code, %d lines of test\n", found.code, found.test); err != nil {
		return err
	}
	if over {
		return errOver
	}
	return nil
}
