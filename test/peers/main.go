//go:build linux

// Command peers measures Beeline side by side with other brokers: it starts each system as processes of its own, puts
// it under a load with beeline bench, stops it, goes on with the next, and prints tables. loads.go says which systems
// and which loads, package systems how they are started, package report what is made of the figures.
//
// It runs from the root of the repository, after the programs in -bin were built: see tools/bench-peers.sh.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/beeline-mqtt/beeline/test/peers/report"
	"github.com/beeline-mqtt/beeline/test/peers/systems"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "peers:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out, log io.Writer) error {
	flags := flag.NewFlagSet("peers", flag.ContinueOnError)
	flags.SetOutput(log)
	bin := flags.String("bin", "bin", "directory with the programs")
	rounds := flags.Int("rounds", 3, "rounds of each load")
	warmup := flags.Duration("warmup", 2*time.Second, "how long pairs and fan-out go on before they are measured")
	duration := flags.Duration("duration", 6*time.Second, "how long they are measured")
	only := flags.String("only", "", "regular expression of the names of loads; default: all")
	raw := flags.String("json", "", "file for every single result")
	markdown := flags.String("markdown", "", "document whose part between the marks is written")
	list := flags.Bool("list", false, "print the names of the loads and stop")
	if err := flags.Parse(args); err != nil {
		return err
	}
	chosen, err := choose(loads(), *only)
	if err != nil {
		return err
	}
	if *list {
		return printNames(out, chosen)
	}
	if *rounds < 1 {
		return errors.New("at least one round")
	}
	on := machine(ctx)
	versions, missing := look(ctx, chosen, systems.Env{Bin: *bin})
	r := runner{bin: *bin, rounds: *rounds, warmup: *warmup, duration: *duration, log: log}
	samples := r.run(ctx, chosen, missing)

	if err := writeRaw(*raw, on, samples); err != nil {
		return err
	}
	tables := tablesOf(chosen, samples)
	about := fmt.Sprintf("%s. Rounds: %d, of %v; figures are medians.", on, *rounds, *duration)
	if err := printTables(out, about, versions, tables); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return errors.New("interrupted: these are not all figures")
	}
	return writeMarkdown(*markdown, about, versions, tables)
}

// choose returns the loads whose names match a regular expression.
func choose(all []load, only string) ([]load, error) {
	pattern, err := regexp.Compile(only)
	if err != nil {
		return nil, err
	}
	chosen := slices.DeleteFunc(all, func(l load) bool { return !pattern.MatchString(l.Name) })
	if len(chosen) == 0 {
		return nil, fmt.Errorf("no load is called like %q", only)
	}
	return chosen, nil
}

func printNames(out io.Writer, chosen []load) error {
	for _, l := range chosen {
		if _, err := fmt.Fprintf(out, "%-20s %s\n", l.Name, strings.Join(l.Systems, "; ")); err != nil {
			return err
		}
	}
	return nil
}

// look finds out which systems there are, in which versions, and why others are missing.
func look(ctx context.Context, chosen []load, env systems.Env) (versions []string, missing map[string]error) {
	missing = map[string]error{}
	known := map[string]bool{}
	for _, l := range chosen {
		for _, s := range l.systems {
			if known[s.Name] {
				continue
			}
			known[s.Name] = true
			version, err := s.Version(ctx, env)
			if err != nil {
				missing[s.Name] = err
				version = s.Name + " is not measured: " + err.Error()
			}
			if !slices.Contains(versions, version) {
				versions = append(versions, version)
			}
		}
	}
	return versions, missing
}

func tablesOf(chosen []load, samples []report.Sample) []report.Table {
	list := make([]report.Load, len(chosen))
	for i, l := range chosen {
		list[i] = l.Load
	}
	return report.Tables(list, report.Medians(samples))
}

func printTables(out io.Writer, about string, versions []string, tables []report.Table) error {
	text := about + "\n" + strings.Join(versions, "\n") + "\n"
	for _, t := range tables {
		text += "\n" + t.Text()
	}
	_, err := io.WriteString(out, text)
	return err
}

// writeRaw writes every result to a file, if there is to be one.
func writeRaw(path, on string, samples []report.Sample) error {
	if path == "" {
		return nil
	}
	b, err := json.MarshalIndent(struct {
		Machine string
		Samples []report.Sample
	}{on, samples}, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(b, '\n'), 0o644)
}

// writeMarkdown writes the tables into a document, if there is to be one.
func writeMarkdown(path, about string, versions []string, tables []report.Table) error {
	if path == "" {
		return nil
	}
	document, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	text := about + "\n\n- " + strings.Join(versions, "\n- ") + "\n"
	for _, t := range tables {
		text += "\n" + t.Markdown()
	}
	if document, err = report.Insert(document, text); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return os.WriteFile(path, document, 0o644)
}
