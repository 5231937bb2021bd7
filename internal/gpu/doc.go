// Package gpu holds the words that the device plugin publishes and the
// placement service and quota agent read: vendor and type names, attribute
// names and their units. Renaming one of them changes every jobspec that
// constrains on it, so the names live here and nowhere else.
package gpu
