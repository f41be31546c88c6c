//! A node that is killed at a named point loses no accepted event.
