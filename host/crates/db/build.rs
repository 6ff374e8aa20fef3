//! A new migration must reach the migrator that is compiled in.

fn main() {
    println!("cargo:rerun-if-changed=../../../migrations");
}
