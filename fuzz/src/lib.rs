//! What the fuzz targets share with the test that replays their seeds.

pub mod properties;
