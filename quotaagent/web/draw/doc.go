// Package draw lays out the pictures of the web pages: the GPUs of a node with what
// connects them, how a limit burns down, and bars.
//
// It is pure: it takes amounts and says where lines and dots are, in the units of an SVG's
// view box. It decides nothing about colours, words, or who may see what.
package draw
