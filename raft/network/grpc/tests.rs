//! Tests of this room through its door.
