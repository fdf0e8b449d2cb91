# Stands in for PVE::QemuServer::Monitor: commands of QMP to the QEMU of a VM.
package PVE::QemuServer::Monitor;

use strict;
use warnings;

use JSON::PP qw(decode_json encode_json);

# Connections, by VM, whose greeting is read.
our %MONITOR;

sub mon_cmd {
    my ($vmid, $execute, %arguments) = @_;

    my $qmp = $MONITOR{$vmid} // die "VM $vmid not running\n";
    print {$qmp} encode_json({ execute => $execute, arguments => \%arguments }), "\n";
    $qmp->flush();
    while (my $line = <$qmp>) {
        my $reply = decode_json($line);
        die "VM $vmid qmp command '$execute' failed - $reply->{error}->{desc}\n" if $reply->{error};
        return $reply->{return} if exists($reply->{return});
    }
    die "VM $vmid not running\n";
}

1;
