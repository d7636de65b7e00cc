//! A bucket of a real S3 server: moto, from PyPI.

use legenda_tests::python::run_script;

#[test]
fn jobs_over_a_real_s3_server_lose_and_duplicate_no_row() {
    println!("{}", run_script("servers/s3_server.py", &[]));
}

#[test]
fn a_week_of_slots_over_a_bucket_runs_each_once_despite_kills_of_the_service() {
    println!("{}", run_script("servers/scheduled_week.py", &[]));
}
