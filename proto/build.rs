//! Generates the wire types from `proto/shoal.proto`. Everything is Rust: no `protoc` is needed.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto/shoal.proto");
    let descriptors = protox::compile(["shoal.proto"], ["proto"])?;
    prost_build::Config::new().compile_fds(descriptors)?;
    Ok(())
}
