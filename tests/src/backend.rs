//! The four places where every case runs, and what is known not to work there.

/// Where a case runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// The CPU, natively.
    Cpu,
    /// A GPU through Vulkan, Metal or DirectX.
    Gpu,
    /// The CPU, in a browser.
    Wasm,
    /// A GPU, in a browser.
    WebGpu,
}

impl Backend {
    /// The name in reports and on command lines.
    pub fn name(self) -> &'static str {
        match self {
            Backend::Cpu => "cpu",
            Backend::Gpu => "gpu",
            Backend::Wasm => "wasm",
            Backend::WebGpu => "webgpu",
        }
    }

    /// The backend of that name.
    pub fn named(name: &str) -> Option<Backend> {
        [Backend::Cpu, Backend::Gpu, Backend::Wasm, Backend::WebGpu].into_iter().find(|b| b.name() == name)
    }
}

/// Graphs of the zoo that are known to miss, with the reason. They run all the same: one that passes must leave this list.
const IGNORED: &[(Backend, &str, &str)] = &[];

/// Why a graph is known to miss on a backend, if it is.
pub fn ignored(backend: Backend, graph: &str) -> Option<&'static str> {
    IGNORED.iter().find(|(b, name, _)| *b == backend && *name == graph).map(|(_, _, reason)| *reason)
}
