// One index from a grid that the host folded into rows because a dimension holds at most 65535 workgroups.

fn linear_group(group: vec3<u32>, groups: vec3<u32>) -> u32 {
    return group.y * groups.x + group.x;
}

fn linear_id(group: vec3<u32>, groups: vec3<u32>, size: u32, local: u32) -> u32 {
    return linear_group(group, groups) * size + local;
}
