fn main() -> std::process::ExitCode {
    binfmt_setup::cli::main()
}
