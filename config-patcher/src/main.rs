fn main() -> std::process::ExitCode {
    config_patcher::cli::main()
}
