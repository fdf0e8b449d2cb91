# Stands in for PVE::Tools: only what the plugin uses, as PVE's callers may rely on it.
package PVE::Tools;

use strict;
use warnings;

use base qw(Exporter);

our @EXPORT_OK = qw(run_command split_list);

# Runs a program given as a list. `input` and `output` are what open() takes for its stdin and stdout.
sub run_command {
    my ($cmd, %opts) = @_;

    my $pid = fork() // die "fork failed: $!\n";
    if (!$pid) {
        open(STDIN, $opts{input}) or die "stdin: $!" if defined($opts{input});    ## no critic
        open(STDOUT, $opts{output}) or die "stdout: $!" if defined($opts{output});    ## no critic
        exec { $cmd->[0] } @$cmd or die "exec of $cmd->[0] failed: $!\n";
    }
    waitpid($pid, 0);
    return 0 if $? == 0;
    my $err = "command '@$cmd' failed: exit code " . ($? >> 8);
    die defined($opts{errmsg}) ? "$opts{errmsg}: $err\n" : "$err\n";
}

sub split_list {
    my ($list) = @_;
    return grep { length } split(/[\s,;\0]+/, $list // '');
}

1;
