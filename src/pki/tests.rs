//! Certificates through the room's door.
