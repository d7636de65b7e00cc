# Recipes for Legenda developers; `just --list` shows them.

# Runs the sample tables on the embedded model.
sample:
    cargo run --release -- run jobs/examples/everything.toml --overwrite --show 24

# Runs the tests.
test:
    cargo test --release --workspace

# Checks formatting and lints, as CI does.
lint:
    cargo fmt --all --check
    cargo clippy --release --workspace --all-targets -- -D warnings

# Runs the tests without Polars, which is more than half of a build.
quick:
    cargo test --release --workspace --no-default-features

# Builds the book into target/book; installs mdBook with cargo if it is missing.
book:
    command -v mdbook > /dev/null || test -x target/mdbook/bin/mdbook || cargo install mdbook --locked --version 0.5.4 --root target/mdbook
    PATH="$PWD/target/mdbook/bin:$PATH" mdbook build docs

# Writes the generated pages of the book and the JSON Schema of the job file.
update-pages:
    LEGENDA_UPDATE=1 cargo test --release --workspace up_to_date

# Trains, evaluates, exports and fine-tunes a toy model in minutes (needs models/training installed).
train-check:
    models/training/train_check.sh

# Tests crashes at every write step, kills and full disks (as root); regenerates docs/torture.md.
torture:
    rm -rf target/torture
    LEGENDA_TORTURE="$PWD/target/torture" cargo test --release --workspace --test command_line --test torture -- crashes:: stores:: --test-threads=1
    cat tests/torture/head.md target/torture/*.md tests/torture/tail.md > docs/torture.md
    cat docs/torture.md

# Measures peak memory by number of rows; prints a table.
memory:
    tests/measure/memory.sh

# Compares real weights with transformers; downloads the weights and installs transformers in a venv.
parity-real:
    cargo build --release
    test -d target/parity_real/venv || python3 -m venv target/parity_real/venv
    target/parity_real/venv/bin/pip install --quiet -r tests/parity_real/requirements.txt
    cd tests && ../target/parity_real/venv/bin/python -m parity_real ../target/release/legenda ../target/parity_real

# Compares the speed with that of transformers and optimum on this CPU, on models of published sizes.
bench *TASKS:
    cargo build --release
    test -d target/bench/venv || python3 -m venv target/bench/venv
    target/bench/venv/bin/pip install --quiet -r tests/bench_cpu/requirements.txt
    cd tests && ../target/bench/venv/bin/python -m bench_cpu ../target/release/legenda ../target/bench {{TASKS}}

# Compares every bundle with its reference and measures its speed; regenerates docs/parity.md.
parity-table:
    rm -rf target/parity
    LEGENDA_PARITY="$PWD/target/parity" cargo test --release --workspace --test models -- families:: quantized:: readers:: listeners:: encoder_decoders:: sequential:: tasks:: embeddings::
    python3 tests/tables/parity.py target/parity > docs/parity.md

# Runs 20,000 damaged images and audio files through the decoders, 2,000 of each through the binary; prints a table.
torture-media:
    LEGENDA_TORTURE_FILES=20000 cargo test --release --workspace --test command_line --test torture -- media:: --nocapture

# Runs 2,000 damaged Parquet files through the reader; prints a table.
torture-parquet:
    LEGENDA_TORTURE_FILES=2000 cargo test --release --workspace --test command_line --test torture -- parquet:: --nocapture

# Runs the security tests; regenerates docs/security.md.
security:
    cargo test --release --workspace --lib --test command_line --test cli > target/security.txt
    python3 tests/tables/security.py < target/security.txt > docs/security.md
    cat docs/security.md

# Checks dependencies for known vulnerabilities and licences (needs `cargo install cargo-deny`, and its database).
deny:
    cargo deny check

# Fuzzes each of our parsers with random input for MINUTES; prints cases and rates.
fuzz MINUTES:
    LEGENDA_FUZZ_SECONDS=$(({{MINUTES}} * 60)) cargo test --release --workspace --test command_line --test torture -- fuzz:: --nocapture --test-threads=1

# Runs the binary at full load on faulty rows for MINUTES; prints its memory and file descriptors.
soak MINUTES:
    LEGENDA_SOAK_MINUTES={{MINUTES}} cargo test --release --workspace --test command_line --test external -- soak:: --nocapture

# Runs large rows under a small `limits.memory`; prints a table.
promise:
    cargo test --release --workspace --test command_line --test torture -- memory:: --nocapture --test-threads=1

# Runs the sample tables in a bucket of an S3 server from PyPI: add a table, filter, kill, resume, verify.
# Then runs a week of a schedule over such a bucket, in about a minute.
s3-server:
    cargo test --release --workspace --test command_line --test external -- s3_server:: --nocapture

# Tests the scheduler web page in headless Chromium; writes screenshots to target/browser.
browser:
    LEGENDA_TEST_BROWSER=1 cargo test --release --workspace --test command_line --test external -- browser:: --nocapture

# Checks all pages with axe-core in headless Chromium, on three screens, in light and dark; writes
# screenshots to target/pages, from which docs/make_screenshots.py makes those of the documents.
pages:
    LEGENDA_TEST_BROWSER=1 cargo test --release --workspace --test command_line --test external -- pages:: --nocapture

# Measures time and memory by rows, row groups and files; regenerates docs/scale.md (needs pyarrow).
scale:
    cargo build --release
    python3 tests/measure/scale.py target/release/legenda > docs/scale.md

# Reads outputs of the binary with pandas, Polars, pyarrow, DuckDB and datasets.
output-readers:
    cargo build --release
    test -d target/output_readers/venv || python3 -m venv target/output_readers/venv
    target/output_readers/venv/bin/pip install --quiet -r tests/output_readers/requirements.txt
    target/output_readers/venv/bin/python tests/output_readers/read_outputs.py target/release/legenda target/output_readers/outputs

# Reads tables written by pandas, polars, DuckDB, pyarrow, datasets and webdataset; compares every cell.
written-tables:
    cargo build --release
    test -d target/written_tables || python3 -m venv target/written_tables
    target/written_tables/bin/pip install --quiet -r tests/written_tables/requirements.txt
    target/written_tables/bin/python tests/written_tables target/release/legenda
