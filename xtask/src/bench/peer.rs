//! The runtimes that Lenslet is compared with.

use std::str::FromStr;

/// A runtime, by the name that rows call it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    OnnxRuntime,
    Tract,
    Rten,
    /// Computes on a GPU, by Vulkan.
    Wonnx,
    OnnxRuntimeWeb,
}

impl Peer {
    const ALL: [Self; 5] = [Self::OnnxRuntime, Self::Tract, Self::Rten, Self::Wonnx, Self::OnnxRuntimeWeb];

    /// Those that run graphs natively.
    pub(super) const NATIVE: [Self; 4] = [Self::OnnxRuntime, Self::Tract, Self::Rten, Self::Wonnx];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::OnnxRuntime => "onnxruntime",
            Self::Tract => "tract",
            Self::Rten => "rten",
            Self::Wonnx => "wonnx",
            Self::OnnxRuntimeWeb => "onnxruntime-web",
        }
    }
}

impl FromStr for Peer {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|peer| peer.name() == name).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            format!("there is no peer `{name}`; choose one of {names}")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Peer;

    #[test]
    fn peers_have_their_names() {
        for peer in Peer::ALL {
            assert_eq!(peer.name().parse(), Ok(peer));
        }
        assert!("onnx".parse::<Peer>().unwrap_err().contains("onnxruntime-web"));
    }
}
