# Recipes for people who work on Legenda; `just --list` names them.

# Runs the sample tables on the embedded model.
sample:
    cargo run --release -- run jobs/examples/everything.toml --overwrite --show 24

# The project's tests.
test:
    cargo test --release --workspace

# Formatting and lints, as CI wants them.
lint:
    cargo fmt --all --check
    cargo clippy --release --workspace --all-targets -- -D warnings

# The inner loop without Polars, which is more than half of a build.
quick:
    cargo test --release --workspace --no-default-features

# Trains, evaluates, exports and fine-tunes a toy model in minutes (needs models/training installed).
train-check:
    models/training/train_check.sh

# Crashes at every step of writing, kills, full disks (as root); makes docs/torture.md anew.
torture:
    rm -rf target/torture
    LEGENDA_TORTURE="$PWD/target/torture" cargo test --release --workspace --test command_line --test torture -- crashes:: stores:: --test-threads=1
    cat tests/torture_head.md target/torture/*.md tests/torture_tail.md > docs/torture.md
    cat docs/torture.md

# Peak memory over the number of rows; prints a table.
memory:
    tests/measure_memory.sh

# Real weights against transformers: fetches weights, and the reference into an environment.
parity-real:
    cargo build --release
    test -d target/parity_real/venv || python3 -m venv target/parity_real/venv
    target/parity_real/venv/bin/pip install --quiet -r tests/parity_real/requirements.txt
    cd tests && ../target/parity_real/venv/bin/python -m parity_real ../target/release/legenda ../target/parity_real

# Makes docs/parity.md anew: every bundle held to its reference, and how fast it is.
parity-table:
    rm -rf target/parity
    LEGENDA_PARITY="$PWD/target/parity" cargo test --release --workspace --test models -- families:: quantized:: readers:: listeners:: encoder_decoders:: hearing:: tasks:: embeddings::
    python3 tests/parity_table.py target/parity > docs/parity.md

# 20,000 damaged pictures and sounds through the decoders, 2,000 of each through the binary; prints a table.
torture-media:
    LEGENDA_TORTURE_FILES=20000 cargo test --release --workspace --test command_line --test torture -- media:: --nocapture

# 2,000 damaged Parquet files through the reader; prints a table.
torture-parquet:
    LEGENDA_TORTURE_FILES=2000 cargo test --release --workspace --test command_line --test torture -- parquet:: --nocapture

# Security cases as a table, with what held; makes docs/security.md anew.
security:
    cargo test --release --workspace --lib --test command_line --test cli > target/security.txt
    python3 tests/security_table.py < target/security.txt > docs/security.md
    cat docs/security.md

# Known vulnerabilities and licences of the dependencies (needs `cargo install cargo-deny`, and its database).
deny:
    cargo deny check

# Every reader of ours over random input, each for so many minutes; prints cases and rates.
fuzz MINUTES:
    LEGENDA_FUZZ_SECONDS=$(({{MINUTES}} * 60)) cargo test --release --workspace --test command_line --test torture -- fuzz:: --nocapture --test-threads=1

# The binary at full load over faulty rows for so many minutes: its memory and descriptors.
soak MINUTES:
    LEGENDA_SOAK_MINUTES={{MINUTES}} cargo test --release --workspace --test command_line --test external -- soak:: --nocapture

# Large rows under a small `limits.memory`; prints a table.
promise:
    cargo test --release --workspace --test command_line --test torture -- memory:: --nocapture --test-threads=1

# The sample tables in a bucket of an S3 server from PyPI: run, added to, filtered, killed, verified; and a
# week of the schedule over one, in about a minute.
s3-server:
    cargo test --release --workspace --test command_line --test external -- s3_server:: --nocapture

# The page of the schedule in headless Chromium; screenshots in target/browser.
browser:
    LEGENDA_TEST_BROWSER=1 cargo test --release --workspace --test command_line --test external -- browser:: --nocapture

# Time and memory over rows, row groups and files; makes docs/scale.md anew (needs pyarrow).
scale:
    cargo build --release
    python3 tests/measure_scale.py target/release/legenda > docs/scale.md

# Outputs of the binary, read by pandas, Polars, pyarrow, DuckDB and datasets.
output-readers:
    cargo build --release
    test -d target/output_readers/venv || python3 -m venv target/output_readers/venv
    target/output_readers/venv/bin/pip install --quiet -r tests/output_readers/requirements.txt
    target/output_readers/venv/bin/python tests/output_readers/read_outputs.py target/release/legenda target/output_readers/outputs

# Tables written by pandas, polars, DuckDB, pyarrow, datasets and webdataset, read by the binary cell by cell.
written-tables:
    cargo build --release
    test -d target/written_tables || python3 -m venv target/written_tables
    target/written_tables/bin/pip install --quiet -r tests/written_tables/requirements.txt
    target/written_tables/bin/python tests/written_tables target/release/legenda
