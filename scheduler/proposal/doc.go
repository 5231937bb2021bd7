// Package proposal is what the placement service tells those who ask where GPUs
// would be given now: the question, the answer, and their JSON.
//
// It is pure, and asking has no effect: nothing is held, spared or written.
package proposal
