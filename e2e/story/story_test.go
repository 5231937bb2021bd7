package story_test

import (
	"path/filepath"
	"testing"

	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/e2e/cluster"
	"github.com/nomad-governor/governor/e2e/clustertest"
	"github.com/nomad-governor/governor/e2e/story"
	"github.com/nomad-governor/governor/e2e/toolchain"
)

// testWriter sends the story to the test's log, which shows it on a failure.
type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Logf("%s", p)
	return len(p), nil
}

// TestStory plays the whole story on real servers. A step that fails does not
// stop the later ones, which begin without its jobs.
func TestStory(t *testing.T) {
	root, err := toolchain.Root()
	must.NoError(t, err)
	options := cluster.Default()
	options.GovernorConfig = "gate {\n  ui_link = \"" + story.UILink + "\"\n}\n"
	c := clustertest.Start(t, options)
	scene := story.NewScene(c, story.NewPrinter(testWriter{t}), filepath.Join(root, "e2e", "_out", "pictures"))
	scene.Rounds = 5 // of which the demo has ten
	for _, step := range append(story.Steps(), story.BrowserSteps()...) {
		t.Run(step.Name, func(t *testing.T) {
			if err := scene.Play(t.Context(), step); err != nil {
				t.Error(err)
			}
		})
	}
}
