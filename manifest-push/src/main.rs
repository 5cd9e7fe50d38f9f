fn main() -> std::process::ExitCode {
    manifest_push::cli::main()
}
