package budgetspec_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/shoenig/test/must"
)

// withoutGolden are the diagnostics that no golden file can show, by constructor:
// they are about sizes and names of files, which other tests have, about what -var
// sets (TestSetVarsThatCannotBe), and a kind of expression that a later version of
// HCL may have.
func withoutGolden() []string {
	return []string{
		"duplicateFile", "fileTooLarge", "lineTooLong", "tooDeep", "moreDiagnostics", "tooManyBudgets", "longList", "tooManyValues",
		"badSetValue", "unknownSetVariable", "notAnExpression",
	}
}

// Every diagnostic that the package can make, each variant by itself, stands in
// some golden file, so that somebody has read it.
func TestEveryDiagnosticHasAGolden(t *testing.T) {
	t.Parallel()
	var goldens strings.Builder
	for _, pattern := range []string{"testdata/bad/*.golden", "testdata/warn/*.golden"} {
		paths, err := filepath.Glob(pattern)
		must.NoError(t, err)
		must.SliceNotEmpty(t, paths)
		for _, path := range paths {
			content, err := os.ReadFile(path)
			must.NoError(t, err)
			goldens.WriteString(oneLine(string(content)) + " ")
		}
	}
	shown := goldens.String()
	variants := 0
	made := detailTexts(t)
	for _, constructor := range slices.Sorted(maps.Keys(made)) {
		for _, detail := range made[constructor] {
			variants++
			if slices.Contains(withoutGolden(), constructor) {
				continue
			}
			for _, part := range fixedParts(detail) {
				if !strings.Contains(shown, part) {
					t.Errorf("no golden file shows %s: %q", constructor, detail)
					break
				}
			}
		}
	}
	must.Greater(t, 150, variants)
	for _, name := range withoutGolden() {
		must.SliceNotEmpty(t, made[name], must.Sprintf("there is no %s", name))
	}
}

func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }

// verb is a formatting verb, and what may be glued to what it prints.
var verb = regexp.MustCompile(`\S*%[+#0-9.]*[a-zA-Z]\S*|%%`)

// fixedParts are the sentences of a format between its verbs that are long enough
// to recognise.
func fixedParts(format string) []string {
	var parts []string
	for _, part := range verb.Split(format, -1) {
		if part = oneLine(part); len(part) > 12 {
			parts = append(parts, part)
		}
	}
	return parts
}

// detailTexts are the format strings of all diagnostics, by the function that makes
// them.
func detailTexts(t *testing.T) map[string][]string {
	t.Helper()
	paths, err := filepath.Glob("diagnostics*.go")
	must.NoError(t, err)
	made := map[string][]string{}
	files := token.NewFileSet()
	for _, path := range paths {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(files, path, nil, 0)
		must.NoError(t, err)
		for _, decl := range file.Decls {
			function, ok := decl.(*ast.FuncDecl)
			if !ok || slices.Contains([]string{"problem", "warning", "setProblem"}, function.Name.Name) {
				continue
			}
			ast.Inspect(function, func(n ast.Node) bool {
				if call, ok := n.(*ast.CallExpr); ok {
					name, _ := call.Fun.(*ast.Ident)
					switch {
					case name == nil:
					case name.Name == "problem" || name.Name == "warning":
						made[function.Name.Name] = append(made[function.Name.Name], literal(t, call.Args[2]))
					case name.Name == "setProblem":
						made[function.Name.Name] = append(made[function.Name.Name], literal(t, call.Args[1]))
					}
				}
				if pair, ok := n.(*ast.KeyValueExpr); ok {
					if key, ok := pair.Key.(*ast.Ident); ok && key.Name == "Detail" {
						made[function.Name.Name] = append(made[function.Name.Name], literal(t, pair.Value))
					}
				}
				return true
			})
		}
	}
	return made
}

// literal is the text of an expression as far as it is constant.
func literal(t *testing.T, e ast.Expr) string {
	t.Helper()
	switch x := e.(type) {
	case *ast.BasicLit:
		text, err := strconv.Unquote(x.Value)
		must.NoError(t, err)
		return text
	case *ast.BinaryExpr:
		return literal(t, x.X) + literal(t, x.Y)
	case *ast.CallExpr:
		return literal(t, x.Args[0])
	}
	return "%s"
}
