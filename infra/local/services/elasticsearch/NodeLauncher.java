import java.net.InetAddress;
import java.nio.file.Path;
import java.util.Map;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import org.elasticsearch.common.logging.LogConfigurator;
import org.elasticsearch.common.settings.Settings;
import org.elasticsearch.env.Environment;
import org.elasticsearch.node.InternalSettingsPreparer;
import org.elasticsearch.node.Node;
import org.elasticsearch.plugins.PluginsLoader;

/**
 * Starts a node in -Des.path.home with the configuration in -Des.path.conf, and stops it in order on SIGTERM.
 *
 * <p>The distribution's own launcher is in no published artifact. Unlike it, this one neither installs entitlements nor refuses
 * to run as root: the node listens on the loopback only and holds no secrets.
 */
public final class NodeLauncher {
    private static final long STOP_SECONDS = 25;

    private NodeLauncher() {}

    public static void main(String[] args) throws Exception {
        Path home = Path.of(System.getProperty("es.path.home"));
        Path configuration = Path.of(System.getProperty("es.path.conf"));
        LogConfigurator.configureESLogging();
        LogConfigurator.registerErrorListener();
        String host = InetAddress.getLoopbackAddress().getHostName();
        Environment environment = InternalSettingsPreparer.prepareEnvironment(
            Settings.builder().put("path.home", home.toString()).build(), Map.of(), configuration, () -> host);
        LogConfigurator.setNodeName(Node.NODE_NAME_SETTING.get(environment.settings()));
        LogConfigurator.configure(environment, true);
        PluginsLoader plugins = PluginsLoader.createPluginsLoader(
            PluginsLoader.loadModulesBundles(environment.modulesDir(), true),
            PluginsLoader.loadPluginsBundles(environment.pluginsDir(), true),
            Map.of());
        Node node = new Node(environment, plugins);
        CountDownLatch stopped = new CountDownLatch(1);
        Runtime.getRuntime().addShutdownHook(new Thread(() -> stop(node, stopped), "stop-node"));
        node.start();
        stopped.await();
    }

    private static void stop(Node node, CountDownLatch stopped) {
        try {
            node.prepareForClose();
            node.close();
            if (!node.awaitClose(STOP_SECONDS, TimeUnit.SECONDS)) {
                System.err.println("the node did not close within " + STOP_SECONDS + " s; the translog keeps what was acknowledged");
            }
        } catch (Exception e) {
            e.printStackTrace();
        } finally {
            stopped.countDown();
        }
    }
}
