package main

import (
	"bufio"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/beeline-mqtt/beeline/services/gateway"
)

// passwordOptions are the flags of beeline password.
type passwordOptions struct {
	file  string
	given bool
}

func passwordCommand() *cobra.Command {
	var o passwordOptions
	cmd := &cobra.Command{
		Use:   "password [flags] USER",
		Short: "Make a password for an MQTT client",
		Long: "Make a password for a user of the gateways, and the line for their password file (gateway.auth.password.file), which has " +
			"a hash of the password and not the password. Gateways read the file again when it changes. The password is printed once: " +
			"nobody can find it out later. With --stdin it is yours, and not printed.",
		Example: "  beeline password meter-17 --file users",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.run(cmd.InOrStdin(), cmd.OutOrStdout(), args[0])
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.file, "file", "", "password file to put the line into, in place of the user's former one; it is made if it is not there. Default: the line is printed")
	f.BoolVar(&o.given, "stdin", false, "read the password from standard input, up to the end of the line")
	return cmd
}

func (o *passwordOptions) run(in io.Reader, out io.Writer, user string) error {
	password := rand.Text()
	if o.given {
		line, err := bufio.NewReader(in).ReadString('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("--stdin: %w", err)
		}
		password = strings.TrimRight(line, "\r\n")
	}
	line, err := gateway.PasswordLine(user, password)
	if err != nil {
		return fmt.Errorf("password: %w", err)
	}
	if o.file != "" {
		if err := gateway.PutPassword(o.file, line); err != nil {
			return fmt.Errorf("--file: %w", err)
		}
	}
	switch {
	case !o.given && o.file != "":
		fmt.Fprintln(out, password)
	case !o.given:
		fmt.Fprintf(out, "%s\n\nLine for the password file:\n\n%s", password, line)
	case o.file == "":
		fmt.Fprint(out, line)
	}
	return nil
}
