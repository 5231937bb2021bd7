package main

import (
	"fmt"
	"io"
	"net/url"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/nomad-governor/governor/scheduler/locality"
)

func stateListCommand(env environment) command {
	return command{synopsis: "Show which state lies on which nodes", help: `Usage: governor state list [options]

  Shows the model weights and caches that were registered: on which node each
  lies, how near to the GPUs, and when it counts as gone unless somebody
  registers it again. Host volumes of nodes count as well, by their names, and
  are not listed.

      $ governor state list

  -json            Print the agent's answer as JSON.` + clientHelp,
		run: func(args []string) int {
			fs := flags("state list")
			c, asJSON := clientFlags(env, fs), fs.Bool("json", false, "")
			if !parse(env, fs, args, 0, 0) {
				return 1
			}
			var all []registered
			raw, err := fetch(c, "/governor/v1/state", &all)
			if err != nil {
				return env.fail(err)
			}
			if *asJSON {
				_, _ = env.stdout.Write(append(raw, '\n'))
				return 0
			}
			printState(env.stdout, all)
			return 0
		}}
}

func printState(w io.Writer, all []registered) {
	if len(all) == 0 {
		fmt.Fprintln(w, "No state is registered.")
		return
	}
	t := newTable("STATE", "NODE", ">SIZE", "TIER", "UNTIL")
	last := ""
	for _, one := range all {
		name, node, size := one.Name, one.NodeName, "-"
		if node == "" {
			node = one.Node + " (gone)"
		}
		if one.Bytes > 0 {
			size = humanize.IBytes(uint64(one.Bytes))
		}
		if name == last {
			name = ""
		}
		last = one.Name
		t.row(name, node, size, string(one.Tier), time.UnixMilli(one.UntilMS).UTC().Format("2006-01-02 15:04 UTC"))
	}
	t.write(w)
}

func stateRegisterCommand(env environment) command {
	return command{synopsis: "Say that state lies on a node", help: `Usage: governor state register [options] <name>

  Says that model weights or a cache lie on a node, so that jobs which name them
  in meta { ` + StateMeta + ` = "<name>" } are drawn to it. Whoever put them there
  says it, and says it again before the time is over: what nobody renews is gone.

      $ governor state register -node=gpu-node-1 -size=140GiB llama-3-70b
      $ governor state register -node=gpu-node-1 -tier=memory -ttl=10m kv-chat

  -node=<node>     The node, by name or id. Required.
  -size=<size>     How large it is: 140GiB.
  -tier=<tier>     How near to the GPUs it lies: gpu, memory or disk. Default: disk.
  -ttl=<time>      For how long it counts. Default: 24h, at most 720h.` + clientHelp,
		run: func(args []string) int {
			fs := flags("state register")
			c := clientFlags(env, fs)
			var in registration
			fs.StringVar(&in.Node, "node", "", "")
			fs.StringVar(&in.Size, "size", "", "")
			fs.StringVar(&in.Tier, "tier", "", "")
			fs.StringVar(&in.TTL, "ttl", "", "")
			if !parse(env, fs, args, 1, 1) {
				return 1
			}
			if in.Node == "" {
				return env.fail(fmt.Errorf("-node is missing: the name or the id of the node that it lies on"))
			}
			var done locality.Asset
			if err := c.call("PUT", "/governor/v1/state/"+url.PathEscape(fs.Arg(0)), in, &done); err != nil {
				return env.fail(err)
			}
			fmt.Fprintf(env.stdout, "%s is registered on %s until %s.\n", done.Name, in.Node, time.UnixMilli(done.UntilMS).UTC().Format("2006-01-02 15:04 UTC"))
			return 0
		}}
}

func stateForgetCommand(env environment) command {
	return command{synopsis: "Say that state is not on a node any more", help: `Usage: governor state forget [options] <name>

  Takes back what "governor state register" said.

      $ governor state forget -node=gpu-7 model/llama-70b

  -node=<node>     The node, by name or id. Required.` + clientHelp,
		run: func(args []string) int {
			fs := flags("state forget")
			c := clientFlags(env, fs)
			node := fs.String("node", "", "")
			if !parse(env, fs, args, 1, 1) {
				return 1
			}
			if *node == "" {
				return env.fail(fmt.Errorf("-node is missing: the name or the id of the node that it lay on"))
			}
			var done locality.Asset
			if err := c.call("DELETE", "/governor/v1/state/"+url.PathEscape(fs.Arg(0))+"?node="+url.QueryEscape(*node), nil, &done); err != nil {
				return env.fail(err)
			}
			fmt.Fprintf(env.stdout, "%s is not registered on %s any more.\n", done.Name, *node)
			return 0
		}}
}
