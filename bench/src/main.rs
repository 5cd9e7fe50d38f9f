use clap::Parser;

fn main() -> std::process::ExitCode {
    match bench::run(&bench::Args::parse()) {
        Ok(exit) => exit.into(),
        Err(error) => {
            eprintln!("bench: cannot {error}");
            error.kind.into()
        }
    }
}
