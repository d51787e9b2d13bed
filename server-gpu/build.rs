//! With the feature `grpc`: Rust for the messages and calls of `proto/inference.proto`. `protox` reads it, so that no `protoc` is needed.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    #[cfg(feature = "grpc")]
    grpc::generate();
}

#[cfg(feature = "grpc")]
mod grpc {
    const FILE: &str = "proto/inference.proto";

    pub(crate) fn generate() {
        println!("cargo::rerun-if-changed={FILE}");
        let files = protox::compile([FILE], ["proto"]).unwrap_or_else(|e| panic!("{FILE}: {e}"));
        tonic_prost_build::configure()
            .build_client(false)
            .build_transport(false)
            // Tensors are not copied out of the message that they came in.
            .bytes(".")
            // Refuses what would take much more memory than it has bytes.
            .codec_path("crate::api::grpc::codec::BoundedCodec")
            .compile_fds(files)
            .unwrap_or_else(|e| panic!("{FILE}: {e}"));
    }
}
