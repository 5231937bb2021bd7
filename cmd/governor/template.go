package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/template"

	"github.com/nomad-governor/governor/internal/quantity"
)

// withTemplates gives every command that can print JSON the option -t. The command prints
// JSON into memory, and the template is made of that: so all have the same fields, and
// those of -json.
func withTemplates(env environment, list map[string]command, again func(environment) map[string]command) map[string]command {
	out := make(map[string]command, len(list))
	for name, c := range list {
		help := templateHelp(c.help)
		if help == c.help {
			out[name] = c
			continue
		}
		plain := c.run
		c.help = help
		c.run = func(args []string) int {
			text, rest, asked := takeTemplate(args)
			if !asked {
				return plain(args)
			}
			t, err := template.New("-t").Funcs(templateFuncs()).Option("missingkey=error").Parse(text)
			if err != nil {
				return env.fail(fmt.Errorf("the template cannot be read: %w", err))
			}
			var answer bytes.Buffer
			inner := env
			inner.stdout = &answer
			code := again(inner)[name].run(append([]string{"-json"}, rest...))
			if answer.Len() == 0 {
				return code // it has said why
			}
			if err := printTemplate(env.stdout, t, &answer); err != nil {
				return env.fail(err)
			}
			return code
		}
		out[name] = c
	}
	return out
}

// takeTemplate takes the option -t out of the arguments.
func takeTemplate(args []string) (text string, rest []string, asked bool) {
	for i := 0; i < len(args); i++ {
		name, value, joined := strings.Cut(strings.TrimPrefix(args[i], "-"), "=")
		switch {
		case args[i] == "--":
			return text, append(rest, args[i:]...), asked
		case name != "-t" && (name != "t" || !strings.HasPrefix(args[i], "-")):
			rest = append(rest, args[i])
		case joined:
			text, asked = value, true
		case i+1 < len(args):
			i++
			text, asked = args[i], true
		default:
			rest = append(rest, args[i]) // parse says that a value is missing
		}
	}
	return text, rest, asked
}

// printTemplate executes a template with what was printed as JSON: the value, or a list
// where there are several. A line ends the output, unless the template has ended one.
func printTemplate(w io.Writer, t *template.Template, answer io.Reader) error {
	decoder := json.NewDecoder(answer)
	decoder.UseNumber()
	var values []any
	for {
		var v any
		err := decoder.Decode(&v)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("read the answer: %w", err)
		}
		values = append(values, v)
	}
	var data any = values
	if len(values) == 1 {
		data = values[0]
	}
	var out bytes.Buffer
	if err := t.Execute(&out, data); err != nil {
		return fmt.Errorf("the template does not fit what -json prints: %w", err)
	}
	if !bytes.HasSuffix(out.Bytes(), []byte("\n")) {
		out.WriteByte('\n')
	}
	_, err := w.Write(out.Bytes())
	return err
}

// templateFuncs are for amounts in base units, and for what is not a text.
func templateFuncs() template.FuncMap {
	of := func(format func(quantity.Amount) string) func(n json.Number) (string, error) {
		return func(n json.Number) (string, error) {
			a, err := n.Int64()
			if err != nil {
				return "", fmt.Errorf("%q is not a whole number: %w", n, err)
			}
			return format(quantity.Amount(a)), nil
		}
	}
	return template.FuncMap{
		"hours": of(quantity.FormatHours), "money": of(quantity.FormatMoney), "gpus": of(quantity.FormatGPUs),
		"kwh": of(func(a quantity.Amount) string { return quantity.FormatDecimal(a, quantity.KWh, 4) }),
		"json": func(v any) (string, error) {
			text, err := json.Marshal(v)
			return string(text), err
		},
	}
}
