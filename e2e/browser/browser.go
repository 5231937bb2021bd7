package browser

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/nomad-governor/governor/e2e/toolchain"
)

// visitTimeout bounds a whole plan.
const visitTimeout = 3 * time.Minute

// Page is one page to look at, and what it must show.
type Page struct {
	// URL to open.
	URL string `json:"url"`
	// PNG is the file that gets the picture.
	PNG string `json:"png"`
	// Steps are done in their order before anything is looked for.
	Steps []Step `json:"steps"`
	// Texts must become visible.
	Texts []string `json:"texts"`
	// Selectors are CSS selectors that must match something visible.
	Selectors []string `json:"selectors"`
	// Absent texts must not be there at the end.
	Absent []string `json:"absent"`
	// Axe fails a page of which axe-core finds serious or critical faults, and one that on
	// a dark screen of 375 pixels has too little contrast or is wider than the screen. A
	// picture of that is taken beside PNG.
	Axe bool `json:"axe"`
}

// Step clicks on the first element that matches a CSS selector, and then inserts text
// where the click has put the focus. Or it posts a JSON document to an address, while the
// page stays open.
type Step struct {
	Click  string `json:"click"`
	Insert string `json:"insert"`
	Post   string `json:"post"`
	Body   string `json:"body"`
}

// Plan is what to look at in one browser.
type Plan struct {
	Pages []Page `json:"pages"`
	// IgnoreErrors are regular expressions of logged errors that do not count.
	IgnoreErrors []string `json:"ignoreErrors"`
	// Token is put where Nomad's UI keeps its token; empty for none.
	Token string `json:"token"`
}

// Seen is what a page showed.
type Seen struct {
	URL    string   `json:"url"`
	Title  string   `json:"title"`
	Text   string   `json:"text"` // the visible text, its first 20000 characters
	Errors []string `json:"errors"`
	// PaintMS is after how many milliseconds something was to be seen.
	PaintMS int `json:"paintMs"`
}

// Visit opens every page of the plan. It fails when a page lacks what it must
// show or logs an error; what was seen is returned then too.
func Visit(ctx context.Context, plan Plan) ([]Seen, error) {
	root, err := toolchain.Root()
	if err != nil {
		return nil, err
	}
	planFile, err := writePlan(plan)
	if err != nil {
		return nil, err
	}
	defer os.Remove(planFile)

	ctx, cancel := context.WithTimeout(ctx, visitTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "node", "shot.mjs", planFile)
	cmd.Dir = filepath.Join(root, "e2e", "browser")
	// The browser's processes are in node's group and end with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	runErr := cmd.Run()

	var result struct {
		Pages    []Seen   `json:"pages"`
		Failures []string `json:"failures"`
	}
	if err := json.Unmarshal(stdout.Bytes(), &result); err != nil {
		return nil, fmt.Errorf("run the browser (install it with `make browser`): %w\n%s", errors.Join(runErr, err), stderr.String())
	}
	if len(result.Failures) > 0 {
		return result.Pages, fmt.Errorf("look at pages:\n  %s", strings.Join(result.Failures, "\n  "))
	}
	return result.Pages, nil
}

// writePlan writes the plan to a file and makes the folders of its pictures.
func writePlan(plan Plan) (string, error) {
	for _, page := range plan.Pages {
		if err := os.MkdirAll(filepath.Dir(page.PNG), 0o755); err != nil {
			return "", fmt.Errorf("make the folder of a picture: %w", err)
		}
	}
	text, err := json.Marshal(plan)
	if err != nil {
		return "", fmt.Errorf("encode the plan: %w", err)
	}
	file, err := os.CreateTemp("", "gov-plan-*.json")
	if err != nil {
		return "", fmt.Errorf("write the plan: %w", err)
	}
	_, err = file.Write(text)
	if err := errors.Join(err, file.Close()); err != nil {
		return "", fmt.Errorf("write the plan: %w", err)
	}
	return file.Name(), nil
}
