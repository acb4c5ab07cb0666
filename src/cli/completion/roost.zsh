#compdef roost
# Completion of roost for zsh, made by `roost completion zsh`.
_roost() {
    local line value
    local -a lines described
    lines=("${(@f)$("${words[1]}" __complete zsh -- "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    case "${lines[1]}" in
        :files | :directories)
            # Of `--option=value` only the value is a path.
            [[ "$PREFIX" == --*=* ]] && compset -P '*='
            if [[ "${lines[1]}" == :files ]]; then _files; else _files -/; fi
            ;;
        *)
            for line in "${lines[@]}"; do
                [[ -n "$line" ]] || continue
                value="${line%%$'\t'*}"
                if [[ "$line" == *$'\t'* ]]; then
                    described+=("${value//:/\\:}:${line#*$'\t'}")
                else
                    described+=("${value//:/\\:}")
                fi
            done
            _describe 'roost' described
            ;;
    esac
}
if [[ "${funcstack[1]}" == _roost ]]; then
    _roost "$@"
else
    compdef _roost roost
fi
