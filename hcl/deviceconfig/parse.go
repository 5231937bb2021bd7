package deviceconfig

import (
	"fmt"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/gohcl"
	"github.com/hashicorp/hcl/v2/hclparse"
)

// fileBytesMost bounds a configuration file, far beyond any that people write.
const fileBytesMost = 1 << 20

func tooLarge(filename string, size int) error {
	return fmt.Errorf("%s has %d bytes; a configuration has at most %d", filename, size, fileBytesMost)
}

// Parse reads the inside of a plugin's config block, or a Nomad client's
// configuration with a block for the named plugin in it; without one the
// defaults count. Other parts of the configuration are not looked at.
func Parse(src []byte, filename, plugin string) (Settings, error) {
	if len(src) > fileBytesMost {
		return Settings{}, tooLarge(filename, len(src))
	}
	block := Default()
	file, diags := hclparse.NewParser().ParseHCL(src, filename)
	if diags.HasErrors() {
		return Settings{}, diags
	}
	body, err := pluginBody(file.Body, plugin)
	if err != nil {
		return Settings{}, err
	}
	if diags := gohcl.DecodeBody(body, nil, &block); diags.HasErrors() {
		return Settings{}, diags
	}
	s, err := block.Check()
	if err != nil {
		return Settings{}, fmt.Errorf("%s: %w", filename, err)
	}
	return s, nil
}

// Over is the settings with a file's attributes and blocks in place of those of
// the block that they were made of. The file is written like the block's inside.
func (s Settings) Over(src []byte, filename string) (Settings, error) {
	if len(src) > fileBytesMost {
		return Settings{}, tooLarge(filename, len(src))
	}
	block := s.block
	block.Sharing, block.Health = nil, nil // decoded as a whole or kept
	file, diags := hclparse.NewParser().ParseHCL(src, filename)
	if !diags.HasErrors() {
		diags = append(diags, gohcl.DecodeBody(file.Body, nil, &block)...)
	}
	if diags.HasErrors() {
		return Settings{}, diags
	}
	if block.ConfigFile != s.block.ConfigFile {
		return Settings{}, fmt.Errorf("%s: config_file cannot name another file", filename)
	}
	if block.Sharing == nil {
		block.Sharing = s.block.Sharing
	}
	if block.Health == nil {
		block.Health = s.block.Health
	}
	next, err := block.Check()
	if err != nil {
		return Settings{}, fmt.Errorf("%s: %w", filename, err)
	}
	return next, nil
}

// WithoutSource is the settings without what they were made of, to compare them.
func (s Settings) WithoutSource() Settings {
	s.block = Block{}
	return s
}

// pluginBody finds this plugin's config block in a client's configuration; a
// file without any plugin block is taken as the block's inside when it has
// attributes of one.
func pluginBody(body hcl.Body, plugin string) (hcl.Body, error) {
	content, rest, diags := body.PartialContent(&hcl.BodySchema{Blocks: []hcl.BlockHeaderSchema{
		{Type: "plugin", LabelNames: []string{"name"}}, {Type: "client"}, {Type: "server"}}})
	if diags.HasErrors() {
		return nil, diags
	}
	if len(content.Blocks) == 0 {
		return rest, nil
	}
	for _, block := range content.Blocks.OfType("plugin") {
		if block.Labels[0] != plugin {
			continue
		}
		inside, _, diags := block.Body.PartialContent(&hcl.BodySchema{Blocks: []hcl.BlockHeaderSchema{{Type: "config"}}})
		if diags.HasErrors() {
			return nil, diags
		}
		if len(inside.Blocks) > 0 {
			return inside.Blocks[0].Body, nil
		}
	}
	return hcl.EmptyBody(), nil
}
