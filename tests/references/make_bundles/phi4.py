"""Phi-4-multimodal in the layout of onnxruntime-genai.

`phi4_text` makes its decoder and adapter files.
"""

import shutil
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import (
    Phi3Config,
    Phi3ForCausalLM,
    Phi4MultimodalConfig,
    Phi4MultimodalFeatureExtractor,
    Phi4MultimodalForCausalLM,
    Phi4MultimodalImageProcessorFast,
    Phi4MultimodalProcessor,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from . import media, templates, toktypes
from .causal import SIZES
from .common import BUNDLES, WORK, size_of, write_reference
from .corpus import ROW_TEXTS
from .decoding import MAX_NEW_TOKENS, Generation, generate
from .listeners import samples_of
from .multimodal import Spec, build
from .phi4_sessions import export, media_feeds
from .toktypes import write_json

__all__ = ["SPECS", "make"]

# Texts, and the images and audio before them; each audio input is a list of concatenated files.
ROWS = [
    ("What is in the picture?", ["waves-90x120.png"], []),
    ("What is in the picture?", ["disc-120x90.png"], []),
    ("Hello", ["checks-700x460.png"], []),
    (ROW_TEXTS[3], ["checks-700x300.png"], []),
    ("Which of both is larger?", ["disc-40x160.png", "checks-700x300.png"], []),
    ("What do you hear?", [], [["glide-2s.wav"]]),
    ("What do you hear?", [], [["fall-1s.wav"]]),
    ("", [], [["hiss-1s.wav"]]),
    ("Which of both is longer?", [], [["glide-2s.wav"], ["steps-1.7s.wav"]]),
    ("Does it sound like this?", ["checks-64x64.png"], [["low-3s.wav"]]),
    ("Hello", [], []),
    (ROW_TEXTS[7], [], []),
]
IMAGE, AUDIO = "<|endoftext10|>", "<|endoftext11|>"
# GroupQueryAttention needs a head size of 16.
TEXT = {**SIZES, "num_attention_heads": 2, "num_key_value_heads": 1}
# Published models take up to 36.
CROPS_MAX = 3
CONTEXT = 4096
# The LoRA rank of each adapter; published ranks differ too.
RANKS = {"vision": 4, "speech": 8}
# The approximate size of what an adapter adds to a layer's output, for inputs of size 1.
LORA_GAIN = 1.0
LORA_LAYERS = ["self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj"]


def _tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Makes a GPT-4o tokenizer with special tokens for turns and media."""
    specials = ["<|endoftext|>", IMAGE, AUDIO, "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
    return toktypes.save(
        toktypes.byte_level(340, specials, digits="{1,3}"),
        folder,
        {
            "add_prefix_space": False,
            "bos_token": "<|endoftext|>",
            "clean_up_tokenization_spaces": False,
            "eos_token": "<|endoftext|>",
            "extra_special_tokens": {"audio_token": AUDIO, "image_token": IMAGE},
            "model_max_length": CONTEXT,
            "pad_token": "<|endoftext|>",
            "tokenizer_class": "GPT2Tokenizer",
            "unk_token": "<|endoftext|>",
        },
        templates.PHI4,
        template_in_config=True,
    )


def _config(tokenizer: PreTrainedTokenizerBase) -> Phi4MultimodalConfig:
    ids = tokenizer.convert_tokens_to_ids
    size, tower = 16, {"num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 32}
    return Phi4MultimodalConfig(
        **{**TEXT, "max_position_embeddings": CONTEXT},
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=_generation(tokenizer)["eos_token_id"],
        pad_token_id=tokenizer.pad_token_id,
        vision_config={**tower, "num_hidden_layers": 3, "image_token_id": ids(IMAGE)},
        audio_config={
            **tower,
            "audio_token_id": ids(AUDIO),
            "bias_max_distance": 20,
            "depthwise_separable_out_channel": size,
            "ext_pw_out_channel": size,
            "nemo_conv_channels": 4,
            "num_blocks": 2,
        },
    )


def _generation(tokenizer: PreTrainedTokenizerBase) -> dict:
    return {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": [tokenizer.convert_tokens_to_ids("<|end|>"), tokenizer.eos_token_id],
        "pad_token_id": tokenizer.pad_token_id,
        # Transformers fails if the model generates a media token, which has no features.
        "suppress_tokens": tokenizer.convert_tokens_to_ids([IMAGE, AUDIO]),
        "transformers_version": "4.57.6",
    }


def _prompts(tokenizer: PreTrainedTokenizerBase) -> list[tuple[dict, dict]]:
    """Returns rows with media tokens before the text, as in Microsoft's examples."""
    pixels = Phi4MultimodalImageProcessorFast(dynamic_hd=CROPS_MAX)
    processor = Phi4MultimodalProcessor(pixels, Phi4MultimodalFeatureExtractor(), tokenizer)
    rows = []
    for text, images, clips in ROWS:
        content = IMAGE * len(images) + AUDIO * len(clips) + text
        rendered = tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        inputs = processor(
            text=rendered,
            images=[media.read_image(name) for name in images] or None,
            audio=[samples_of(names) for names in clips] or None,
            return_tensors="pt",
        )
        row = {"text": text, "images": images, "audios": clips, "rendered": rendered}
        row["prompt_ids"] = inputs["input_ids"][0].tolist()
        rows.append((row, dict(inputs)))
    return rows


class Adapted(Phi4MultimodalForCausalLM):
    """The model with random LoRA adapters on its decoder; the media of a row select the adapter.

    The adapter weights are not parameters, so the model is saved without them.
    """

    def __init__(self, config: Phi4MultimodalConfig) -> None:
        super().__init__(config)
        self.active: str | None = None
        self.adapters: dict[str, dict[str, tuple[torch.Tensor, torch.Tensor]]] = {}
        linears = {
            f"model.layers.{i}.{part}": layer.get_submodule(part)
            for i, layer in enumerate(self.model.layers)
            for part in LORA_LAYERS
        }
        for name, linear in linears.items():
            linear.register_forward_hook(partial(self._add, name))
        for seed, (adapter, rank) in enumerate(RANKS.items()):
            generator = torch.Generator().manual_seed(seed)
            self.adapters[adapter] = {
                name: (
                    torch.randn(linear.in_features, rank, generator=generator)
                    / linear.in_features**0.5,
                    torch.randn(rank, linear.out_features, generator=generator)
                    * (LORA_GAIN / rank**0.5),
                )
                for name, linear in linears.items()
            }

    def _add(
        self, name: str, _: nn.Module, args: tuple[torch.Tensor], output: torch.Tensor
    ) -> torch.Tensor:
        if self.active not in self.adapters:
            return output
        a, b = self.adapters[self.active][name]
        return output + (args[0] @ a) @ b

    def generate(self, **inputs: object) -> object:
        """Selects the vision adapter if there are images, even together with audio."""
        feeds = media_feeds(inputs)
        self.active = next((adapter for adapter in RANKS if feeds[adapter]), None)
        return super().generate(**inputs)

    def lora_inputs(self) -> dict[str, np.ndarray]:
        """Returns all LoRA weights as decoder inputs; the builder splits gate and up layers."""
        weights = {}
        for adapter, pairs in self.adapters.items():
            for name, (a, b) in pairs.items():
                name = name.replace("self_attn", "attn")
                parts = {name: b}
                if name.endswith("gate_up_proj"):
                    block = name.removesuffix("gate_up_proj")
                    parts = dict(
                        zip((f"{block}gate_proj", f"{block}up_proj"), b.chunk(2, 1), strict=True)
                    )
                for part, own in parts.items():
                    weights[f"{adapter}/{part}.lora_A.MatMul.weight"] = a.numpy()
                    weights[f"{adapter}/{part}.lora_B.MatMul.weight"] = own.contiguous().numpy()
        return weights


def _expect_adapters_matter(
    model: Adapted, inputs: list[dict], answers: list[Generation], eos_ids: list[int]
) -> None:
    """Fails if too many answers stay the same without adapters or with swapped adapters."""
    adapters = model.adapters
    vision, speech = adapters.values()
    for others in ({}, {"vision": speech, "speech": vision}):
        model.adapters = others
        unchanged = [
            generate(model, own, eos_ids).token_ids == answer.token_ids
            for own, answer in zip(inputs, answers, strict=True)
            if any(media_feeds(own).values())
        ]
        print(f"  {sum(unchanged)} of {len(unchanged)} rows unchanged with adapters {list(others)}")
        if sum(unchanged) * 2 > len(unchanged):
            raise AssertionError("adapters change too few answers")
    model.adapters = adapters


def _genai_config(config: Phi4MultimodalConfig, generation: dict) -> dict:
    identity = lambda *names: {name: name for name in names}  # noqa: E731
    options = {"log_id": "onnxruntime-genai", "provider_options": []}
    return {
        "model": {
            "bos_token_id": config.bos_token_id,
            "context_length": CONTEXT,
            "decoder": {
                "session_options": options,
                "filename": "phi-4-mm-text.onnx",
                "head_size": config.hidden_size // config.num_attention_heads,
                "hidden_size": config.hidden_size,
                "inputs": {
                    **identity("inputs_embeds", "attention_mask"),
                    "past_key_names": "past_key_values.%d.key",
                    "past_value_names": "past_key_values.%d.value",
                },
                "outputs": {
                    **identity("logits"),
                    "present_key_names": "present.%d.key",
                    "present_value_names": "present.%d.value",
                },
                "num_attention_heads": config.num_attention_heads,
                "num_hidden_layers": config.num_hidden_layers,
                "num_key_value_heads": config.num_key_value_heads,
            },
            "embedding": {
                "filename": "phi-4-mm-embedding.onnx",
                "inputs": identity("input_ids", "image_features", "audio_features"),
                "outputs": identity("inputs_embeds"),
            },
            "vision": {
                "filename": "phi-4-mm-vision.onnx",
                "config_filename": "vision_processor.json",
                "adapter_filename": "phi-4-mm-vision.onnx_adapter",
                "inputs": {
                    **identity("pixel_values", "image_sizes"),
                    "attention_mask": "image_attention_mask",
                },
                "outputs": identity("image_features"),
            },
            "speech": {
                "filename": "phi-4-mm-speech.onnx",
                "config_filename": "speech_processor.json",
                "adapter_filename": "phi-4-mm-speech.onnx_adapter",
                "inputs": {
                    **identity("audio_embeds", "audio_sizes", "audio_projection_mode"),
                    "attention_mask": "audio_attention_mask",
                },
                "outputs": identity("audio_features"),
            },
            "eos_token_id": generation["eos_token_id"],
            "image_token_id": config.vision_config.image_token_id,
            "audio_token_id": config.audio_config.audio_token_id,
            "pad_token_id": config.pad_token_id,
            "type": "phi4mm",
            "vocab_size": config.vocab_size,
        },
        "search": {
            "do_sample": False,
            "early_stopping": True,
            "length_penalty": 1.0,
            "max_length": CONTEXT,
            "min_length": 0,
            "num_beams": 1,
            "past_present_share_buffer": True,
            "repetition_penalty": 1.0,
            "temperature": 1.0,
            "top_k": 1,
            "top_p": 1.0,
        },
    }


def _operation(name: str, kind: str, **attrs: object) -> dict:
    return {"operation": {"name": name, "type": kind, "attrs": attrs}}


VISION_PROCESSOR = {
    "processor": {
        "name": "phi_4_vision_processor",
        "transforms": [
            _operation("decode_image", "DecodeImage", color_space="RGB"),
            _operation(
                "phi4_vision_dynamic_preprocess",
                "Phi4VisionDynamicPreprocess",
                dynamic_hd=CROPS_MAX,
                dyhd_base_resolution=448,
            ),
            {"operation": {"name": "rescale", "type": "Rescale", "inputs": [":0"]}},
            _operation("normalize", "Normalize", mean=[0.5, 0.5, 0.5], std=[0.5, 0.5, 0.5]),
            {
                "operation": {
                    "name": "phi4_vision_processor",
                    "type": "Phi4VisionProcessor",
                    "inputs": [":0", "phi4_vision_dynamic_preprocess:1"],
                    "attrs": {"dyhd_base_resolution": 448, "interpolation": "CUBIC"},
                }
            },
        ],
        "output_aligner": "phi4-vision-aligner",
    }
}


def _spectrum(suffix: str, frame: int, hop: int, n_fft: int) -> dict:
    return {
        f"stft_normal{suffix}/n_fft": n_fft,
        f"stft_normal{suffix}/frame_length": frame,
        f"stft_normal{suffix}/hop_length": hop,
        f"stft_normal{suffix}/win_fn": "hamming",
        f"logmel{suffix}/chunk_size": 30,
        f"logmel{suffix}/hop_length": hop,
        f"logmel{suffix}/n_fft": 512,
        f"logmel{suffix}/n_mel": 80,
        f"logmel{suffix}/feature_first": 0,
        f"logmel{suffix}/no_padding": 1,
    }


SPEECH_PROCESSOR = {
    "feature_extraction": {
        "sequence": [
            _operation("audio_decoder", "AudioDecoderEx", target_sample_rates=[8000, 16000]),
            _operation(
                "phi_4_audio_embed",
                "Phi4AudioEmbed",
                audio_compression_rate=8,
                **_spectrum("", 400, 160, 512),
                **_spectrum("_8k", 200, 80, 256),
            ),
        ],
        "output_aligner": "phi4-audio-aligner",
    }
}


def _save_text(model: PreTrainedModel) -> None:
    """Saves the decoder as a text model, for the builder in the other environment."""
    config = model.config
    text = Phi3Config(
        **{**TEXT, "max_position_embeddings": CONTEXT},
        **{name: getattr(config, name) for name in ("vocab_size", "bos_token_id", "pad_token_id")},
        eos_token_id=config.eos_token_id[0],
        original_max_position_embeddings=CONTEXT,
        rms_norm_eps=config.rms_norm_eps,
        rope_theta=config.rope_theta,
    )
    decoder = Phi3ForCausalLM(text)
    own = {k: v for k, v in model.state_dict().items() if "embed_tokens_extend" not in k}
    decoder.load_state_dict(own)
    decoder.save_pretrained(WORK / "phi4_text")


def _features(tokenizer: PreTrainedTokenizerBase) -> list[dict]:
    """Returns some frames of the audio features."""
    extractor = Phi4MultimodalFeatureExtractor()
    cases = []
    for name in ("glide-2s.wav", "hiss-1s.wav", "quiet-0.8s.wav"):
        values = extractor([samples_of([name])], return_tensors="np")["audio_input_features"][0]
        frames = list(range(0, len(values), 13))
        rows = [[round(float(value), 5) for value in values[frame]] for frame in frames]
        cases.append({"audio": name, "n_frames": len(values), "frames": frames, "values": rows})
    return cases


SPECS = [
    Spec(
        name="phi4",
        tokenizer=_tokenizer,
        model_class=Adapted,
        config=_config,
        generation=_generation,
        files={
            "vision_processor.json": VISION_PROCESSOR,
            "speech_processor.json": SPEECH_PROCESSOR,
        },
    )
]


def make(spec: Spec) -> None:
    """Makes the bundle, without its decoder and adapter files, and its reference."""
    folder = BUNDLES / spec.name
    shutil.rmtree(folder, ignore_errors=True)
    media.make()
    tokenizer = spec.tokenizer(folder)
    rows = _prompts(tokenizer)
    inputs = [inputs for _, inputs in rows]
    model, answers = build(spec, tokenizer, inputs)
    generation = spec.generation(tokenizer)
    _expect_adapters_matter(model, inputs, answers, generation["eos_token_id"])
    for answer in answers:
        if [int(raw.argmax()) for raw in answer.raw_logits] != answer.token_ids:
            raise AssertionError("the graphs would generate a token that is suppressed here")
    spec.files["genai_config.json"] = _genai_config(model.config, generation)
    for name, content in spec.files.items():
        write_json(folder / name, content)
    export(model, inputs, folder)
    _save_text(model)
    np.savez(WORK / "phi4_text" / "adapters.npz", **model.lora_inputs())
    shutil.copy(folder / "tokenizer.json", WORK / "phi4_text")
    shutil.copy(folder / "tokenizer_config.json", WORK / "phi4_text")
    output_rows = []
    for index, ((row, own), answer) in enumerate(zip(rows, answers, strict=True)):
        feeds = media_feeds(own)
        flat = {f"{k}/{name}": v.numpy() for k, part in feeds.items() for name, v in part.items()}
        np.savez(WORK / "phi4_text" / f"row_{index}.npz", **flat)
        output_rows.append({**row, **answer.row()})
        output_rows[-1]["answer"] = tokenizer.decode(answer.token_ids, skip_special_tokens=True)
    write_reference(
        spec.name,
        output_rows,
        max_new_tokens=MAX_NEW_TOKENS,
        eos_token_ids=generation["eos_token_id"],
        image_backend="torchvision",
        features=_features(tokenizer),
    )
    print(f"  {size_of(folder)} bytes, without the decoder and the adapters")
