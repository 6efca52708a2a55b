"""The parts of the SCALE model stand here, in torch and Megatron-Core: no NeMo, no input or output."""
