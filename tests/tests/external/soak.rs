//! The binary under full load over faulty rows: memory and file descriptors do not grow. `just soak
//! MINUTES` runs it longer.

use legenda_tests::python::run_script;

#[test]
fn memory_and_descriptors_do_not_grow() {
    let minutes = std::env::var("LEGENDA_SOAK_MINUTES").unwrap_or_else(|_| "2".to_owned());
    println!("{}", run_script("measure/soak.py", &[&minutes]));
}
