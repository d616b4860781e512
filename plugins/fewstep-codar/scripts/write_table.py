"""Write the embeddings of a trained model as a table for the process embedding_gaussian.

    python plugins/fewstep-codar/scripts/write_table.py RUN table.safetensors

RUN is a model of ids (`transformer`, `image_transformer`). A state that is no symbol, [MASK], is left out. Set
`process.table` to the file and `process.dim` to the number that is printed.
"""

from __future__ import annotations

import argparse

from safetensors.torch import save_file
from torch import nn

from fewstep.denoisers.network import NetworkDenoiser
from fewstep.runs.models import open_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("file")
    options = parser.parse_args()
    model = open_model(options.run, device="cpu")
    embedding = (
        getattr(model.network.backbone, "embedding", None) if isinstance(model.network, NetworkDenoiser) else None
    )
    if not isinstance(embedding, nn.Embedding):
        raise SystemExit(f"'{options.run}' has no embedding of ids; name a model with a transformer")
    rows = embedding.weight[: model.network.process.vocab_size].detach().clone()
    save_file({"table": rows}, options.file)
    print(f"process.dim: {rows.shape[1]}")


if __name__ == "__main__":
    main()
