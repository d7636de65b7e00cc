//! The examples at the end of each `--help`, and examples of models.

/// For a task that needs an embedding model.
pub(crate) const EMBEDDING_MODELS: &str = "\
use an embedding model, such as `--model clip` for images, `--model minilm` for texts or `--model clap` for \
audio (in a job file: `model.bundle`)";

/// For a task that needs timestamps.
pub(crate) const TIMESTAMP_MODELS: &str = "\
use a model with timestamps, such as `--model whisper-base` (in a job file: `model.bundle`)";

/// Of `legenda`.
pub(super) const ALL: &str = "\
Examples:
  legenda caption photos/
  legenda ask photo.jpg \"What color is the car?\"
  legenda transcribe recordings/ --model whisper-base --srt
  legenda inspect table.parquet --job job.toml && legenda run job.toml

Exit codes: 0 done · 1 internal error · 2 invalid command, job, table or model; no row was read · \
3 error budget exceeded · 4 failed, run again to resume · 5 `verify` found a problem · \
130 interrupted, run again to resume";

/// Of `legenda caption`.
pub(super) const CAPTION: &str = "\
Examples:
  legenda caption photos/
  legenda caption photos/ --model smolvlm -o captions.csv
  legenda caption 'photos/*.jpg' --txt --prompt \"List the objects.\"
  legenda caption table.parquet --limit 100 --save-job job.toml";

/// Of `legenda ask`.
pub(super) const ASK: &str = "\
Examples:
  legenda ask photo.jpg \"What color is the car?\"
  legenda ask photos/ \"Is there a person?\" --model smolvlm -o answers.csv
  legenda ask reviews.csv \"Is this review positive?\" --model smollm2";

/// Of `legenda transcribe`.
pub(super) const TRANSCRIBE: &str = "\
Examples:
  legenda transcribe talk.mp3
  legenda transcribe recordings/ --model whisper-base --srt --vtt
  legenda transcribe recordings/ --model whisper-base --language de -o transcripts.jsonl";

/// Of `legenda embed`.
pub(super) const EMBED: &str = "\
Examples:
  legenda embed articles.csv --model minilm -o embeddings.parquet
  legenda embed photos/ --model clip -o embeddings.parquet
  legenda embed articles.csv --model minilm --prompt \"{{ title }} {{ body }}\" -o embeddings/";

/// Of `legenda run`.
pub(super) const RUN: &str = "\
Examples:
  legenda run job.toml
  legenda run job.toml --limit 100 --show 5
  legenda run job.toml --set model.bundle=smolvlm --set output.path=out";

/// Of `legenda batch`.
pub(super) const BATCH: &str = "\
Examples:
  legenda batch requests.jsonl --out responses.jsonl
  legenda batch requests.jsonl --model smollm2 --out responses.jsonl";

/// Of `legenda check`.
pub(super) const CHECK: &str = "\
Examples:
  legenda check job.toml
  legenda check job.toml --set model.device=cuda";

/// Of `legenda inspect`.
pub(super) const INSPECT: &str = "\
Examples:
  legenda inspect photos/
  legenda inspect 'data/*.parquet' --job job.toml";

/// Of `legenda estimate`.
pub(super) const ESTIMATE: &str = "\
Examples:
  legenda estimate job.toml
  legenda estimate job.toml --rows 500 --save";

/// Of `legenda retry`.
pub(super) const RETRY: &str = "\
Examples:
  legenda retry captions
  legenda retry captions --code media_too_large --set limits.media_bytes=\"1 GiB\"";

/// Of `legenda export`.
pub(super) const EXPORT: &str = "\
Examples:
  legenda export captions -o captions.csv
  legenda export captions -o captions.parquet --columns path,answer
  legenda export captions -o all.jsonl --rejects";

/// Of `legenda verify`.
pub(super) const VERIFY: &str = "\
Examples:
  legenda verify captions";

/// Of `legenda eval`.
pub(super) const EVAL: &str = "\
Examples:
  legenda eval transcripts --reference sentence
  legenda eval transcripts --reference sentence --compare transcripts-base --id id";

/// Of `legenda report`.
pub(super) const REPORT: &str = "\
Examples:
  legenda report captions --to captions.html
  legenda report captions --compare captions-before";

/// Of `legenda schedule`.
pub(super) const SCHEDULE: &str = "\
Examples:
  legenda schedule jobs/
  legenda schedule jobs/ --listen 0.0.0.0:7788 --page-host jobs.example.org --token-env TOKEN";

/// Of `legenda models`.
pub(super) const MODELS: &str = "\
Examples:
  legenda models
  legenda models pull whisper-base
  legenda models show hf://HuggingFaceTB/SmolVLM-256M-Instruct
  legenda models check smolvlm";

/// Of `legenda models list`.
pub(super) const MODELS_LIST: &str = "\
Examples:
  legenda models list
  legenda models list --all --json";

/// Of `legenda models known`.
pub(super) const MODELS_KNOWN: &str = "\
Examples:
  legenda models known
  legenda models known --json";

/// Of `legenda models show`, `pull` and `check`.
pub(super) const MODEL: &str = "\
Examples of models:
  legenda-tiny                                     the embedded model
  smolvlm                                          a short name (see `legenda models`)
  hf://HuggingFaceTB/SmolVLM-256M-Instruct@main    a model of the Hugging Face Hub
  models/my-model                                  a directory";

/// Of `legenda doctor`.
pub(super) const DOCTOR: &str = "\
Examples:
  legenda doctor
  legenda doctor --offline --json";

/// Of `legenda schema`.
pub(super) const SCHEMA: &str = "\
Examples:
  legenda schema job > job.schema.json";

/// Of `legenda completions`.
pub(super) const COMPLETIONS: &str = "\
Examples:
  legenda completions bash > ~/.local/share/bash-completion/completions/legenda
  legenda completions zsh > \"${fpath[1]}/_legenda\"
  legenda completions fish > ~/.config/fish/completions/legenda.fish";

/// Of `legenda man`.
pub(super) const MAN: &str = "\
Examples:
  legenda man > legenda.1
  legenda man run | man -l -";
