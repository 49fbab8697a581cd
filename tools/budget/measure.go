package main

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"strings"
)

const (
	maxFunction = 80  // lines
	maxFile     = 500 // lines
	maxMethods  = 5   // of an interface
)

// finding is something that is above its budget.
type finding struct {
	name string // "dir/file.go" or "dir/file.go:Function"
	line int
	what string
}

// String is the line for the reader.
func (f finding) String() string {
	file, _, _ := strings.Cut(f.name, ":")
	return fmt.Sprintf("%s:%d: %s (%s)", file, f.line, f.what, f.name)
}

// result is what there is in a tree.
type result struct {
	findings   []finding
	code, test int // lines
}

// measure reads all Go files below the root of tree.
func measure(tree fs.FS) (result, error) {
	var r result
	err := fs.WalkDir(tree, ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && skipped(name):
			return fs.SkipDir
		case d.IsDir() || path.Ext(name) != ".go":
			return nil
		}
		src, err := fs.ReadFile(tree, name)
		if err != nil {
			return err
		}
		return r.file(name, src)
	})
	return r, err
}

func skipped(dir string) bool {
	base := path.Base(dir)
	return base == "testdata" || base == "bin" || len(base) > 1 && strings.HasPrefix(base, ".")
}

// isTest says whether a file is there for tests only: a test file, or of a package that only tests use.
func isTest(name string) bool {
	if strings.HasSuffix(name, "_test.go") || strings.HasPrefix(name, "test/") {
		return true
	}
	return strings.HasSuffix(path.Dir(name), "test")
}

func (r *result) file(name string, src []byte) error {
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, name, src, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	if ast.IsGenerated(f) {
		return nil
	}
	lines := bytes.Count(src, []byte("\n"))
	if isTest(name) {
		r.test += lines
		return nil
	}
	r.code += lines
	if lines > maxFile {
		r.add(name, 1, "file of %d lines, at most %d", lines, maxFile)
	}
	for _, d := range f.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			first, last := fset.Position(d.Pos()).Line, fset.Position(d.End()).Line
			if n := last - first + 1; n > maxFunction {
				r.add(name+":"+d.Name.Name, first, "function of %d lines, at most %d", n, maxFunction)
			}
		case *ast.GenDecl:
			r.interfaces(name, fset, d)
		}
	}
	return nil
}

func (r *result) interfaces(name string, fset *token.FileSet, d *ast.GenDecl) {
	for _, spec := range d.Specs {
		t, ok := spec.(*ast.TypeSpec)
		if !ok {
			continue
		}
		if i, ok := t.Type.(*ast.InterfaceType); ok && i.Methods.NumFields() > maxMethods {
			line := fset.Position(t.Pos()).Line
			r.add(name+":"+t.Name.Name, line, "interface of %d methods, at most %d", i.Methods.NumFields(), maxMethods)
		}
	}
}

func (r *result) add(name string, line int, format string, args ...any) {
	r.findings = append(r.findings, finding{name: name, line: line, what: fmt.Sprintf(format, args...)})
}

// readExceptions reads lines of a name, as findings have them, and the reason. Lines that begin with # and empty
// ones are left out. Without a file there are none.
func readExceptions(file string) (map[string]string, error) {
	exceptions := map[string]string{}
	if file == "" {
		return exceptions, nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, reason, _ := strings.Cut(line, " ")
		if strings.TrimSpace(reason) == "" {
			return nil, fmt.Errorf("%s: the exception for %s has no reason", file, name)
		}
		exceptions[name] = strings.TrimSpace(reason)
	}
	return exceptions, nil
}
