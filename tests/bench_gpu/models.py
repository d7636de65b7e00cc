"""The two models of the benchmark, as configs only; their sizes are those of published models."""

import torch
from transformers import (
    GPT2Config,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
    ViTConfig,
)

START_ID = 1
# Models with random weights do not learn when to stop. With one token in 40 as an end token, answer
# lengths vary widely, as those of captions do.
EOS_IDS = list(range(20, 49152, 40))
MAX_NEW_TOKENS = 64


def captioner() -> PreTrainedModel:
    """Returns ViT base with GPT-2 small (240 million parameters), the usual captioner."""
    decoder = GPT2Config(add_cross_attention=True, is_decoder=True)
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(ViTConfig(), decoder)
    config.tie_word_embeddings = False
    config.decoder.tie_word_embeddings = False
    return _random_model(VisionEncoderDecoderModel, config)


def writer() -> PreTrainedModel:
    """Returns a model of the shape of SmolLM2-135M."""
    return _random_model(
        LlamaForCausalLM,
        LlamaConfig(
            vocab_size=49152,
            hidden_size=576,
            intermediate_size=1536,
            num_hidden_layers=30,
            num_attention_heads=9,
            num_key_value_heads=3,
            max_position_embeddings=2048,
            tie_word_embeddings=False,
        ),
    )


def _random_model(model_class: type[PreTrainedModel], config: object) -> PreTrainedModel:
    torch.manual_seed(0)
    return model_class(config).eval()


MODELS = {"captioner": captioner, "writer": writer}
