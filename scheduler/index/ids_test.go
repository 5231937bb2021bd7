package index

import (
	"fmt"
	"testing"

	"github.com/shoenig/test/must"
	"pgregory.net/rapid"
)

func TestNodesAreFoundByTheirIDsWhateverCameAndWent(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		x, there := indexOf(t, nil), map[string]bool{}
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			id := fmt.Sprintf("n%d", rapid.IntRange(0, 40).Draw(t, "id"))
			if there[id] {
				must.NoError(t, x.Remove(id))
			} else {
				must.NoError(t, x.Add(Node{ID: id, Class: "a-mesh", Free: 1}))
			}
			there[id] = !there[id]
		}
		count := 0
		for i := range 41 {
			id := fmt.Sprintf("n%d", i)
			n, ok := x.Node(id)
			must.Eq(t, there[id], ok)
			if ok {
				count++
				must.Eq(t, id, n.ID)
			}
		}
		must.Eq(t, count, x.Len())
	})
}
