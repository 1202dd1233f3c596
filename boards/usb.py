"""The link over a board's own USB connector: a serial device (CDC-ACM) at full speed.

luna-usb's gateware PHY drives the wires; its bits are sampled at 48 MHz. What luna calls the domain
`usb`, of 12 MHz, is the same clock here with an enable in every fourth cycle. So the two need no
phase between them, nothing crosses, and the tools see one clock, every path of which they time.

The host sees an ordinary serial port, whose rate means nothing. Its descriptors promise no modem's
commands, which keeps programs away that look for a modem and talk to whatever they find.
"""

from types import SimpleNamespace

from amaranth import DomainRenamer, Elaboratable, EnableInserter, Module, ResetInserter, Signal
from amaranth.lib import io, stream, wiring
from amaranth.lib.wiring import In, Out
from luna.gateware.usb.usb2.device import USBDevice
from luna.gateware.usb.usb2.endpoint import EndpointInterface
from luna.gateware.usb.usb2.endpoints.stream import USBStreamInEndpoint, USBStreamOutEndpoint
from luna.gateware.usb.usb2.request import USBRequestHandler
from usb_protocol.emitters import DeviceDescriptorCollection
from usb_protocol.emitters.descriptors import cdc
from usb_protocol.types import USBRequestType

__all__ = ["CLOCK_HZ", "PACKET", "PRODUCT", "VENDOR", "UsbLine", "UsbSerial", "descriptors"]

CLOCK_HZ = 48e6
"""Four samples a bit."""

VENDOR, PRODUCT = 0x1209, 0x0001
"""Test id of pid.codes: for one's own desk, not for devices that are handed on."""

PACKET = 64
"""The longest packet that full speed allows for bulk data."""

_SENT = PACKET - 1
"""Bytes of the longest packet to the host. A host takes what it has when a packet is shorter than
`PACKET`; full ones would need an empty one behind the last, or the end of an answer would stay in
the host until the next."""

_STATUS, _DATA = 1, 2
"""Endpoints' numbers."""

_SET_LINE_CODING, _SET_CONTROL_LINE_STATE = 0x20, 0x22


def descriptors(product: str) -> DeviceDescriptorCollection:
    """What the device tells of itself; `product` is the name that it shows."""
    collection = DeviceDescriptorCollection()
    with collection.DeviceDescriptor() as device:
        # A device whose interfaces are grouped by an association.
        device.bDeviceClass, device.bDeviceSubclass, device.bDeviceProtocol = 0xEF, 0x02, 0x01
        device.idVendor, device.idProduct = VENDOR, PRODUCT
        device.iManufacturer, device.iProduct = "systolith", product
        device.bNumConfigurations = 1
    with collection.ConfigurationDescriptor() as configuration:
        with configuration.InterfaceAssociationDescriptor() as association:
            association.bFirstInterface, association.bInterfaceCount = 0, 2
            association.bFunctionClass, association.bFunctionSubClass = 0x02, 0x02
            association.bFunctionProtocol = 0
        with configuration.InterfaceDescriptor() as control:
            control.bInterfaceNumber = 0
            control.bInterfaceClass, control.bInterfaceSubclass = 0x02, 0x02
            control.bInterfaceProtocol = 0  # no modem's commands
            control.add_subordinate_descriptor(cdc.HeaderDescriptorEmitter())
            management = cdc.ACMFunctionalDescriptorEmitter()
            management.bmCapabilities = 0  # what hosts ask all the same is accepted
            control.add_subordinate_descriptor(management)
            union = cdc.UnionFunctionalDescriptorEmitter()
            union.bControlInterface, union.bSubordinateInterface0 = 0, 1
            control.add_subordinate_descriptor(union)
            calls = cdc.CallManagementFunctionalDescriptorEmitter()
            calls.bDataInterface = 1
            control.add_subordinate_descriptor(calls)
            with control.EndpointDescriptor() as status:
                status.bEndpointAddress = 0x80 | _STATUS
                status.bmAttributes, status.wMaxPacketSize, status.bInterval = 0x03, 8, 255
        with configuration.InterfaceDescriptor() as data:
            data.bInterfaceNumber = 1
            data.bInterfaceClass, data.bInterfaceSubclass, data.bInterfaceProtocol = 0x0A, 0, 0
            for address in (0x80 | _DATA, _DATA):
                with data.EndpointDescriptor() as endpoint:
                    endpoint.bEndpointAddress = address
                    endpoint.bmAttributes, endpoint.wMaxPacketSize = 0x02, PACKET
    return collection


class _LineRequests(USBRequestHandler):
    """Accepts the rate and the control lines that hosts set, and forgets them."""

    def elaborate(self, platform):
        m = Module()
        interface = self.interface
        with m.If((interface.setup.type == USBRequestType.CLASS)
                  & ((interface.setup.request == _SET_LINE_CODING)
                     | (interface.setup.request == _SET_CONTROL_LINE_STATE))):
            m.d.comb += [
                interface.claim.eq(1),
                interface.handshakes_out.ack.eq(interface.rx_ready_for_response),
            ]
            with m.If(interface.status_requested):
                m.d.comb += self.send_zlp()
        return m


class _StatusEndpoint(Elaboratable):
    """Has nothing to tell, ever."""

    def __init__(self):
        self.interface = EndpointInterface()

    def elaborate(self, platform):
        m = Module()
        token = self.interface.tokenizer
        m.d.comb += self.interface.handshakes_out.nak.eq(
            (token.endpoint == _STATUS) & token.is_in & token.ready_for_response)
        return m


class _Endpoint(Elaboratable):
    """An endpoint of luna's that starts anew, with the packet sequence that the host expects, when
    the host configures the device: luna's own keep theirs over a reset of the bus.

    luna names the second endpoint of a class by its address in memory; subclasses of this one keep
    builds the same.
    """

    def __init__(self, inner):
        self._inner = inner
        self.interface, self.stream = inner.interface, inner.stream

    def elaborate(self, platform):
        m = Module()
        idle = Signal()
        m.d.comb += idle.eq(self.interface.active_config == 0)
        m.submodules.inner = ResetInserter({"usb": idle})(self._inner)
        return m


class _FromHost(_Endpoint):
    def __init__(self):
        super().__init__(USBStreamOutEndpoint(endpoint_number=_DATA, max_packet_size=PACKET))


class _ToHost(_Endpoint):
    def __init__(self):
        super().__init__(USBStreamInEndpoint(endpoint_number=_DATA, max_packet_size=_SENT))

    def elaborate(self, platform):
        m = super().elaborate(platform)
        # Whatever is there when the host asks is sent; more collects meanwhile.
        m.d.comb += self._inner.flush.eq(1)
        return m


class UsbSerial(wiring.Component):
    """The serial device behind a pair of wires, in a clock of `CLOCK_HZ`.

    Bytes are neither lost nor doubled as long as the host keeps the device configured. When the
    device takes no bytes the host is told to wait; bytes for a host that does not ask for any wait
    here.

    Parameters
    ----------
    product : str
        The name that the host shows.

    Members
    -------
    dp_i, dn_i : In(1)
        The wires, synchronized to the clock.
    dp_o, dn_o, oe : Out(1)
        What to drive on them, and whether to.
    pullup : Out(1)
        Whether to pull D+ up, by which the host notices the device.
    rx : Out(stream of bytes), tx : In(stream of bytes)
        As the device sees it: what came in, and what is to go out.
    """

    def __init__(self, product: str):
        self._product = product
        super().__init__({
            "dp_i": In(1), "dn_i": In(1), "dp_o": Out(1), "dn_o": Out(1), "oe": Out(1),
            "pullup": Out(1),
            "rx": Out(stream.Signature(8)),
            "tx": In(stream.Signature(8)),
        })

    def elaborate(self, platform):
        m = Module()
        wires = SimpleNamespace(**{
            name: SimpleNamespace(i=Signal(name=f"{name}_i"), o=Signal(name=f"{name}_o"),
                                  oe=Signal(name=f"{name}_oe"))
            for name in ("d_p", "d_n", "pullup")})
        from_host, to_host = _FromHost(), _ToHost()
        device = USBDevice(bus=wires)
        control = device.add_standard_control_endpoint(descriptors(self._product))
        control.add_request_handler(_LineRequests())
        for endpoint in (_StatusEndpoint(), from_host, to_host):
            device.add_endpoint(endpoint)

        phase = Signal(2)
        enable = Signal()
        m.d.sync += [phase.eq(phase + 1), enable.eq(phase == 0)]
        m.submodules.device = DomainRenamer({"usb": "sync", "usb_io": "sync"})(
            EnableInserter({"usb": enable})(device))
        m.d.comb += [
            device.connect.eq(1),
            wires.d_p.i.eq(self.dp_i), wires.d_n.i.eq(self.dn_i),
            self.dp_o.eq(wires.d_p.o), self.dn_o.eq(wires.d_n.o), self.oe.eq(wires.d_p.oe),
            self.pullup.eq(wires.pullup.o),
        ]

        # A byte moves to or from luna's side in cycles with the enable, and on ours in any.
        m.d.comb += from_host.stream.ready.eq(~self.rx.valid)
        with m.If(self.rx.ready):
            m.d.sync += self.rx.valid.eq(0)
        with m.If(enable & from_host.stream.valid & ~self.rx.valid):
            m.d.sync += [self.rx.payload.eq(from_host.stream.payload), self.rx.valid.eq(1)]

        m.d.comb += self.tx.ready.eq(~to_host.stream.valid)
        with m.If(to_host.stream.valid):
            with m.If(enable & to_host.stream.ready):
                m.d.sync += to_host.stream.valid.eq(0)
        with m.Elif(self.tx.valid):
            m.d.sync += [to_host.stream.payload.eq(self.tx.payload), to_host.stream.valid.eq(1)]
        return m


class UsbLine(wiring.Component):
    """`UsbSerial` at the platform's resource `usb`, in a clock of `CLOCK_HZ`.

    The wires have registers in the pads, so that both change at the same time and without glitches.
    """

    def __init__(self, product: str):
        self._product = product
        super().__init__({"rx": Out(stream.Signature(8)), "tx": In(stream.Signature(8))})

    def elaborate(self, platform):
        m = Module()
        resource = platform.lookup("usb", 0)
        pins = platform.request("usb", 0, dir={pin.name: "-" for pin in resource.ios})
        m.submodules.dp = dp = io.FFBuffer("io", pins.d_p)
        m.submodules.dn = dn = io.FFBuffer("io", pins.d_n)
        m.submodules.pullup = pullup = io.FFBuffer("o", pins.pullup)
        m.submodules.serial = serial = UsbSerial(self._product)
        # The second register of a synchronizer whose first is in the pad.
        m.d.sync += [serial.dp_i.eq(dp.i), serial.dn_i.eq(dn.i)]
        m.d.comb += [
            dp.o.eq(serial.dp_o), dp.oe.eq(serial.oe),
            dn.o.eq(serial.dn_o), dn.oe.eq(serial.oe),
            pullup.o.eq(serial.pullup),
        ]
        wiring.connect(m, serial.rx, wiring.flipped(self.rx))
        wiring.connect(m, wiring.flipped(self.tx), serial.tx)
        return m
