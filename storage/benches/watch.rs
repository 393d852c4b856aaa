//! Tests of this room through its door.

fn main() {}
