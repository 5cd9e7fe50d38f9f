//! The properties of the fuzz targets, shared with the test that replays their seeds.

pub mod properties;
