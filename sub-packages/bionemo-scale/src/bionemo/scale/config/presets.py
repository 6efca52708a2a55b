"""Model sizes, as configurations that recipes start from: ``model=scale_small`` on nemo-run's command line."""

import nemo_run as run

from bionemo.scale.config.model import ScaleConfig


@run.cli.factory
def scale_tiny() -> run.Config[ScaleConfig]:
    """For one CPU and a few minutes: tutorials, tests, panels of a few hundred genes."""
    return run.Config(
        ScaleConfig,
        hidden_size=64,
        num_layers=2,
        num_attention_heads=4,
        num_query_groups=2,
        ffn_hidden_size=192,
        gene_modules=8,
        gene_module_size=32,
    )


@run.cli.factory
def scale_small() -> run.Config[ScaleConfig]:
    """About 3 million weights for 2,000 genes: a screen of thousands of cells, on two CPU cores or one small GPU."""
    return run.Config(
        ScaleConfig,
        hidden_size=128,
        num_layers=3,
        num_attention_heads=4,
        num_query_groups=2,
        ffn_hidden_size=384,
        gene_modules=8,
        gene_module_size=64,
    )


@run.cli.factory
def scale_184m() -> run.Config[ScaleConfig]:
    """The smaller published size, about 184 million weights for 2,000 genes."""
    return _large(num_layers=8)


@run.cli.factory
def scale_280m() -> run.Config[ScaleConfig]:
    """The larger published size, about 280 million weights for 2,000 genes."""
    return _large(num_layers=13)


def _large(num_layers: int) -> run.Config[ScaleConfig]:
    return run.Config(
        ScaleConfig,
        hidden_size=1024,
        num_layers=num_layers,
        num_attention_heads=16,
        num_query_groups=4,
        ffn_hidden_size=3072,
        gene_modules=32,
        gene_module_size=128,
        # An assignment on the CPU in every step, which sets of this size feel.
        pairing="none",
    )


MODELS = {model.__name__: model for model in (scale_tiny, scale_small, scale_184m, scale_280m)}
