@group(0) @binding(5) var<storage, read_write> y: array<f32>;
