// What the tokens of a batch have in common; kernels that only read it bind it as a uniform. Put before every
// kernel whose header says "uses: state".

struct State {
  position: u32, // of the batch's first token in the context
  count: u32, // real tokens in the batch: kernels ignore the rest; 0 while the plan is halted
  step: u32, // tokens sampled since the generation began
  seed: u32, // of that generation
  halted: u32, // why it is: whoever halts it also takes its tokens away, so that no kernel does anything
  clock: u32, // lookups of experts that went on (lookup.wgsl)
}
