//! Generates the gRPC client and server of `shoal.v1.Tracker`. The messages are those of `shoal-proto`.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=../proto/proto/shoal.proto");
    let descriptors = protox::compile(["shoal.proto"], ["../proto/proto"])?;
    tonic_prost_build::configure()
        .extern_path(".shoal.v1", "::shoal_proto::wire::v1")
        .compile_fds(descriptors)?;
    Ok(())
}
