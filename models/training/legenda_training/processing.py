"""The processor: converts images, audio and text to model inputs with Hugging Face components."""

from __future__ import annotations

import numpy as np
from PIL import Image
from transformers import (
    BatchFeature,
    PreTrainedTokenizerFast,
    ProcessorMixin,
    SiglipImageProcessor,
    WhisperFeatureExtractor,
)

from .modeling import LegendaConfig
from .pretrain_audio import feature_extractor
from .speech import CHUNK_SECONDS, SAMPLING_RATE


class LegendaProcessor(ProcessorMixin):
    """Expands each `<image>` and `<audio>` of a rendered prompt to its number of tokens."""

    def __init__(
        self,
        image_processor: SiglipImageProcessor | None = None,
        feature_extractor: WhisperFeatureExtractor | None = None,
        tokenizer: PreTrainedTokenizerFast | None = None,
        chat_template: str | None = None,
        image_seq_length: int = 36,
        audio_seq_length: int = 50,
        image_token: str = "<image>",
        audio_token: str = "<audio>",
        **kwargs,
    ) -> None:
        self.image_seq_length = image_seq_length
        self.audio_seq_length = audio_seq_length
        self.image_token = image_token
        self.audio_token = audio_token
        super().__init__(image_processor, feature_extractor, tokenizer, chat_template=chat_template)

    def prompt(self, question: str | None, image: bool = False, audio: bool = False) -> str:
        """Renders the chat template for one user turn: media first, then the question."""
        content: list[dict] = []
        content += [{"type": "image"}] * image
        content += [{"type": "audio"}] * audio
        if question:
            content.append({"type": "text", "text": question})
        return self.tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )

    def __call__(
        self,
        text: str,
        image: Image.Image | None = None,
        audio: np.ndarray | None = None,
        **kwargs,
    ) -> BatchFeature:
        """Processes one row; `audio` is float32 mono at 16 kHz, at most the chunk length."""
        text = text.replace(self.image_token, self.image_token * self.image_seq_length)
        text = text.replace(self.audio_token, self.audio_token * self.audio_seq_length)
        inputs = dict(self.tokenizer(text, return_tensors="pt", add_special_tokens=False))
        inputs.pop("token_type_ids", None)
        if image is not None:
            pixels = self.image_processor(image.convert("RGB"), return_tensors="pt")
            inputs["pixel_values"] = pixels["pixel_values"]
        if audio is not None:
            if len(audio) > CHUNK_SECONDS * SAMPLING_RATE:
                raise ValueError(f"the audio is longer than {CHUNK_SECONDS} s")
            features = self.feature_extractor(
                audio, sampling_rate=SAMPLING_RATE, return_tensors="pt"
            )
            inputs["input_features"] = features["input_features"]
        return BatchFeature(inputs)


def new_processor(config: LegendaConfig, tokenizer: PreTrainedTokenizerFast) -> LegendaProcessor:
    """Returns the processor for a configuration."""
    return LegendaProcessor(
        image_processor=SiglipImageProcessor(
            size={"height": config.image_size, "width": config.image_size}, do_convert_rgb=True
        ),
        feature_extractor=feature_extractor(),
        tokenizer=tokenizer,
        chat_template=tokenizer.chat_template,
        image_seq_length=config.image_seq_length,
        audio_seq_length=config.audio_seq_length,
    )
