# Completion of windlass for bash. The program is asked at each tab, and names what the daemon knows.
_windlass() {
    local words whole kept='' part break
    # Bash parts words at @, = and : as well; the program is given them whole.
    read -ra words <<<"${COMP_LINE:0:COMP_POINT}"
    [[ ${COMP_LINE:0:COMP_POINT} != *[[:space:]] ]] || words+=('')
    whole=${words[${#words[@]} - 1]}
    # Of an answer only what stands behind the last of these marks is put into the line.
    for break in @ = :; do
        [[ $COMP_WORDBREAKS == *"$break"* && $whole == *"$break"* ]] || continue
        part=${whole%"${whole##*"$break"}"}
        ((${#part} <= ${#kept})) || kept=$part
    done
    local IFS=$'\n'
    # shellcheck disable=SC2207 # A name is one line.
    COMPREPLY=($(WINDLASS_COMPLETE=bash _CLAP_IFS=$'\n' _CLAP_COMPLETE_INDEX=$((${#words[@]} - 1)) "${words[0]}" -- "${words[@]}" 2>/dev/null)) || COMPREPLY=()
    COMPREPLY=("${COMPREPLY[@]#"$kept"}")
    [[ ${#COMPREPLY[@]} != 1 || ${COMPREPLY[0]} != *[/=@] ]] || compopt -o nospace
}
complete -o bashdefault -F _windlass windlass
