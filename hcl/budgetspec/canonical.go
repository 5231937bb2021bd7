package budgetspec

import (
	"bytes"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/hashicorp/hcl/v2/hclwrite"
)

// canonical is the source of an expression on one line, without comments, as the
// formatter writes it: how it is laid out in the file makes no difference.
func canonical(src []byte) string {
	tokens, _ := hclsyntax.LexExpression(src, "", hcl.InitialPos)
	var line bytes.Buffer
	var inObject []bool // for each open bracket: whether new lines separate items
	for i, token := range tokens {
		switch token.Type { //nolint:exhaustive // all others stay as they are
		case hclsyntax.TokenOHeredoc:
			return strings.TrimSpace(string(hclwrite.Format(src))) // has lines of its own
		case hclsyntax.TokenOBrace, hclsyntax.TokenOBrack, hclsyntax.TokenOParen, hclsyntax.TokenTemplateInterp, hclsyntax.TokenTemplateControl:
			inObject = append(inObject, token.Type == hclsyntax.TokenOBrace && string(next(tokens, i).Bytes) != "for")
		case hclsyntax.TokenCBrace, hclsyntax.TokenCBrack, hclsyntax.TokenCParen, hclsyntax.TokenTemplateSeqEnd:
			inObject = inObject[:max(0, len(inObject)-1)]
		case hclsyntax.TokenComment, hclsyntax.TokenNewline:
			last := tokens[max(0, i-1)].Type
			if len(inObject) > 0 && inObject[len(inObject)-1] && !isBlank(last) && last != hclsyntax.TokenComma &&
				last != hclsyntax.TokenOBrace && next(tokens, i).Type != hclsyntax.TokenCBrace && bytes.HasSuffix(token.Bytes, []byte("\n")) {
				line.WriteByte(',')
			}
			line.WriteByte(' ')
			continue
		}
		if i > 0 && token.Range.Start.Byte > tokens[i-1].Range.End.Byte {
			line.WriteByte(' ')
		}
		line.Write(token.Bytes)
	}
	return strings.TrimSpace(string(hclwrite.Format(bytes.TrimSpace(line.Bytes()))))
}

func isBlank(t hclsyntax.TokenType) bool {
	return t == hclsyntax.TokenComment || t == hclsyntax.TokenNewline
}

// next is the first token after i that says something.
func next(tokens hclsyntax.Tokens, i int) hclsyntax.Token {
	for _, token := range tokens[i+1:] {
		if !isBlank(token.Type) {
			return token
		}
	}
	return hclsyntax.Token{}
}
