package acl

// Rules are what one policy says, as Nomad itself reads it (RulesJSON of GET
// /v1/acl/policy/:name): short forms, such as policy = "write", are expanded into
// capabilities. Those that say nothing about jobs are kept for writing the policy anew.
type Rules struct {
	Namespaces  []NamespaceRule
	NodePools   []NamedRule
	HostVolumes []NamedRule
	Agent       *LevelRule
	Node        *LevelRule
	Operator    *LevelRule
	Quota       *LevelRule
	Plugin      *LevelRule
	Sentinel    *LevelRule
}

// NamespaceRule is what a policy allows in the namespaces that match Name.
type NamespaceRule struct {
	Name, Policy string
	Capabilities []string
	Variables    *struct {
		Paths []struct {
			PathSpec     string
			Capabilities []string
		}
	}
}

// NamedRule is what a policy allows with node pools or host volumes.
type NamedRule struct {
	Name, Policy string
	Capabilities []string
}

// LevelRule is what a policy allows with something that there is once.
type LevelRule struct {
	Policy       string
	Capabilities []string `json:",omitempty"`
}
