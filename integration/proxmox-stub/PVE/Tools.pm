# Stands in for PVE::Tools: only what the plugin uses, as PVE's callers may rely on it.
package PVE::Tools;

use strict;
use warnings;

use base qw(Exporter);

our @EXPORT_OK = qw(run_command split_list);

# Runs a program given as a list, or several as a list of lists, each reading what the one before prints. `input` and
# `output` are what open() takes for the first one's stdin and the last one's stdout. `outfunc` gets its lines instead.
sub run_command {
    my ($cmd, %opts) = @_;

    my @line = ref($cmd->[0]) ? @$cmd : ($cmd);
    my ($from, @pids) = (undef);
    for my $at (0 .. $#line) {
        my ($read, $write);
        pipe($read, $write) or die "pipe failed: $!\n" if $at < $#line || $opts{outfunc};
        my $pid = fork() // die "fork failed: $!\n";
        if (!$pid) {
            my $in = $from ? '<&' . fileno($from) : $opts{input};
            my $out = $write ? '>&' . fileno($write) : $opts{output};
            open(STDIN, $in) or die "stdin: $!" if defined($in);    ## no critic
            open(STDOUT, $out) or die "stdout: $!" if defined($out);    ## no critic
            exec { $line[$at]->[0] } $line[$at]->@* or die "exec of $line[$at]->[0] failed: $!\n";
        }
        push @pids, $pid;
        $from = $read;
    }
    while (defined($from) && defined(my $text = <$from>)) {
        chomp($text);
        $opts{outfunc}->($text);
    }
    my $bad;
    for my $at (0 .. $#line) {
        waitpid($pids[$at], 0);
        $bad //= "command '@{ $line[$at] }' failed: exit code " . ($? >> 8) if $? != 0;
    }
    return 0 if !defined($bad);
    die defined($opts{errmsg}) ? "$opts{errmsg}: $bad\n" : "$bad\n";
}

sub split_list {
    my ($list) = @_;
    return grep { length } split(/[\s,;\0]+/, $list // '');
}

1;
